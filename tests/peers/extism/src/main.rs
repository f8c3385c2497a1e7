//! Extism: a WebAssembly plugin in the host's own process, JSON in and out. The plugin is
//! `extism.wasm` beside this program.

use std::time::Instant;

use extism::convert::Json;
use extism::{CompiledPlugin, Error, Manifest, Plugin, PluginBuilder, Wasm};
use serde::{Deserialize, Serialize};

const CALLS: usize = 20_000;
const STARTS: usize = 11;

/// The record that travels.
#[derive(Serialize, Deserialize)]
struct Shot {
    name: String,
    frame: i32,
    weight: f64,
}

fn call(plugin: &mut Plugin, frame: i32) -> Result<(), Error> {
    let shot = Shot { name: "frame-1".to_owned(), frame, weight: 0.5 };
    let Json(answer): Json<Shot> = plugin.call("next", Json(shot))?;
    if answer.frame == frame + 1 { Ok(()) } else { Err(Error::msg("a wrong frame came back")) }
}

fn main() -> Result<(), Error> {
    let bytes = std::fs::read(std::env::current_exe()?.with_file_name("extism.wasm"))?;
    let builder =
        PluginBuilder::new(Manifest::new([Wasm::data(bytes)])).with_wasi(false).with_cache_disabled();
    let compiled = CompiledPlugin::new(builder)?;
    let (mut first, mut each) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        call(&mut Plugin::new_from_compiled(&compiled)?, 1)?;
        first.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut plugin = Plugin::new_from_compiled(&compiled)?;
    for frame in 0..CALLS {
        let began = Instant::now();
        call(&mut plugin, frame as i32)?;
        each.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let (each, first) = (median(each), median(first));
    println!("{{\"call_us\": {each:.3}, \"first_call_ms\": {first:.3}}}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
