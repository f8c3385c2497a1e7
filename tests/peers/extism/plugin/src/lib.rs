//! The plugin of the Extism peer.

use extism_pdk::{FnResult, Json, plugin_fn};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Shot {
    name: String,
    frame: i32,
    weight: f64,
}

#[plugin_fn]
pub fn next(Json(shot): Json<Shot>) -> FnResult<Json<Shot>> {
    Ok(Json(Shot { frame: shot.frame + 1, ..shot }))
}
