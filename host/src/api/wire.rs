//! The methods: their names, their shapes and their errors, said once.

use std::sync::Arc;

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::{Connection, Hello, Welcome};
use crate::events::{Event, Progress};
use crate::jobs::OrderError;
use crate::rpc::{ErrorObject, INTERNAL_ERROR, INVALID_PARAMS};
use crate::service::ServiceError;
use crate::service::types::{
    Devices, Drain, EventFilter, EventPage, Favour, Host, Install, Job, JobFilter, JobPage, Nothing, OneJob,
    OnePlugin, Pin, Plugin, Plugins, Resume, Retry, RolledBack, Shutdown, Submission, TaskFilter, TaskPage,
    Why, Workers,
};
use crate::terms::JobId;

/// The answer to a request.
pub(super) type Answer = Result<Value, ErrorObject>;

/// The request is understood, and yet it cannot be done as it is.
const REFUSED: i64 = -32001;
/// There is no such thing.
const NOT_FOUND: i64 = -32002;
/// The thing is in a state in which that cannot be done.
const CONFLICT: i64 = -32003;
/// Hello was not said, or not in the right way.
const DENIED: i64 = -32004;
/// The host cannot do it now.
const UNAVAILABLE: i64 = -32005;

/// What a client calls its session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OpenSession {
    /// A name for people, of at most 128 bytes.
    #[serde(default)]
    name: String,
}

/// Which session to go on with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResumeSession {
    /// Its id.
    id: String,
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Session {
    /// Its id.
    id: String,
    /// Its name.
    name: String,
    /// The last event that was acknowledged; when it is new, the last there was.
    cursor: u64,
}

/// What to follow.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Subscribe {
    /// Everything after this event. Without it: after what the session has
    /// acknowledged; without a session, from now on.
    from: Option<u64>,
    /// Only what belongs to this job.
    job: Option<JobId>,
    /// Whether to tell how far attempts are, too.
    progress: bool,
}

/// That something is followed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Subscribed {
    /// Its number in this connection.
    id: u64,
    /// The event that it begins after.
    from: u64,
    /// If some events after `from` are not kept any more: the last that may be gone.
    missed: Option<u64>,
}

/// Which subscription to end.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Unsubscribe {
    /// Its number.
    id: u64,
}

/// What a client has seen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    /// The last event.
    seq: u64,
}

/// Makes the table of methods: how each is called, and how it is described.
macro_rules! methods {
    ($(
        $(#[doc = $about:literal])+
        $name:literal($connection:ident, $params:ident: $takes:ty) -> $gives:ty $work:block
    )*) => {
        /// Calls a method; none if there is no such method.
        pub(super) async fn dispatch(
            connection: &Arc<Connection>,
            method: &str,
            params: Value,
        ) -> Option<Answer> {
            match method {
                $($name => {
                    let $params: $takes = match serde_json::from_value(params) {
                        Ok(params) => params,
                        Err(error) => return Some(Err(bad_params(&error))),
                    };
                    let $connection = connection;
                    let work = async move { let given: Result<$gives, ServiceError> = $work; given };
                    Some(told(Box::pin(work).await))
                })*
                "rpc.discover" => Some(Ok(discover())),
                _ => None,
            }
        }

        /// Reads what a method takes, and does nothing; none if there is no such method.
        pub(super) fn read(method: &str, params: Value) -> Option<Result<(), ErrorObject>> {
            match method {
                "hello" => Some(fits::<Hello>(params)),
                "rpc.discover" => Some(Ok(())),
                $($name => Some(fits::<$takes>(params)),)*
                _ => None,
            }
        }

        fn described(generator: &mut SchemaGenerator) -> Vec<Value> {
            vec![$(method($name, &[$($about),+], <$takes>::json_schema(generator).to_value(),
                (stringify!($gives), generator.subschema_for::<$gives>().to_value()))),*]
        }
    };
}

methods! {
    /// Opens a session: what a client has acknowledged survives its connection.
    "session.open"(connection, params: OpenSession) -> Session {
        let session = connection.service.open_session(params.name).await?;
        connection.enter(&session.id)?;
        Ok(Session { id: session.id, name: session.name, cursor: session.cursor })
    }
    /// Goes on with a session of an earlier connection.
    "session.resume"(connection, params: ResumeSession) -> Session {
        let session = connection.service.session(params.id).await?;
        connection.enter(&session.id)?;
        Ok(Session { id: session.id, name: session.name, cursor: session.cursor })
    }
    /// Queues a job. Answers once it is on disk.
    "jobs.submit"(connection, params: Submission) -> Job {
        connection.service.submit(params, connection.session.get().cloned()).await
    }
    /// Returns a job.
    "jobs.get"(connection, params: OneJob) -> Job { connection.service.job(params).await }
    /// Lists jobs, newest first.
    "jobs.list"(connection, params: JobFilter) -> JobPage { connection.service.jobs(params).await }
    /// Cancels a job. What it has rendered stays.
    "jobs.cancel"(connection, params: OneJob) -> Job { connection.service.cancel(params).await }
    /// Begins nothing more of a job until it is resumed.
    "jobs.pause"(connection, params: OneJob) -> Job { connection.service.pause(params).await }
    /// Goes on with a paused job.
    "jobs.resume"(connection, params: Resume) -> Job { connection.service.resume(params).await }
    /// Begins a job again that failed or was canceled: what is not done, and, if a release is
    /// named, what was done by that one.
    "jobs.retry"(connection, params: Retry) -> Job { connection.service.retry(params).await }
    /// Keeps a job and its events however old they are, or does not.
    "jobs.pin"(connection, params: Pin) -> Job { connection.service.pin(params).await }
    /// Lists the tasks of a job, in the order of its plan.
    "tasks.list"(connection, params: TaskFilter) -> TaskPage { connection.service.tasks(params).await }
    /// Lists all releases of all plugins, and what was rejected.
    "plugins.list"(connection, _params: Nothing) -> Plugins { Ok(connection.service.plugins().await) }
    /// Shows the release that a name stands for, and the schema of its settings.
    "plugins.show"(connection, params: OnePlugin) -> Plugin { connection.service.plugin(params).await }
    /// Proves a plugin and puts it into the operator's folder.
    "plugins.install"(connection, params: Install) -> Plugin { connection.service.install(params).await }
    /// Takes a release out of the operator's folder. Jobs that are pinned to it keep it.
    "plugins.remove"(connection, params: OnePlugin) -> Plugin { connection.service.remove(params).await }
    /// Lets a release be tried that wants more than the one before it.
    "plugins.approve"(connection, params: OnePlugin) -> Plugin { connection.service.approve(params).await }
    /// Lets a release that is tried, or is quarantined, serve at once.
    "plugins.promote"(connection, params: OnePlugin) -> Plugin { connection.service.promote(params).await }
    /// Goes back from the release of a plugin that serves to the one before it.
    "plugins.rollback"(connection, params: OnePlugin) -> RolledBack { connection.service.roll_back(params).await }
    /// Takes a release out of service; jobs that may move on to another one.
    "plugins.quarantine"(connection, params: OnePlugin) -> Plugin { connection.service.quarantine(params).await }
    /// Makes a release serve all jobs that it fits, whatever is newer; or lets the newest serve again.
    "plugins.pin"(connection, params: Favour) -> Plugin { connection.service.favour(params).await }
    /// Says which jobs and leases hold a release.
    "plugins.why"(connection, params: OnePlugin) -> Why { connection.service.why(params).await }
    /// Lists the workers.
    "workers.list"(connection, _params: Nothing) -> Workers { Ok(connection.service.workers()) }
    /// Lists the devices.
    "devices.list"(connection, _params: Nothing) -> Devices { Ok(connection.service.devices()) }
    /// Says how the host stands.
    "host.status"(connection, _params: Nothing) -> Host { Ok(connection.service.host()) }
    /// Finishes what runs and begins nothing, or begins again.
    "host.drain"(connection, params: Drain) -> Host { connection.service.drain(params).await }
    /// Stops the host; what is not finished is done by the next one.
    "host.shutdown"(connection, params: Shutdown) -> Host {
        connection.service.shut_down(params);
        Ok(connection.service.host())
    }
    /// Lists events that are stored.
    "events.list"(connection, params: EventFilter) -> EventPage { connection.service.events(params).await }
    /// Sends events as they happen, and those before from a number on, as `events`
    /// notifications; and, if wanted, `progress` notifications.
    "events.subscribe"(connection, params: Subscribe) -> Subscribed {
        let from = match (params.from, connection.session.get()) {
            (None, Some(session)) => Some(connection.service.session(session.clone()).await?.cursor),
            (from, _) => from,
        };
        let (events, from, missed) = connection.service.subscribe(from).await?;
        let pump = connection.pump(events, params.job, params.progress);
        let id = pump.map_err(|what| ServiceError::Parameter(what.to_owned()))?;
        Ok(Subscribed { id, from, missed: missed.map(|missed| missed.0) })
    }
    /// Ends a subscription.
    "events.unsubscribe"(connection, params: Unsubscribe) -> Nothing {
        let id = params.id;
        let unknown = ServiceError::Unknown { what: "subscription", id: id.to_string() };
        connection.end_pump(id).then_some(Nothing {}).ok_or(unknown)
    }
    /// Says what the client of this session has seen: a subscription of the resumed
    /// session begins after it.
    "events.acknowledge"(connection, params: Acknowledge) -> Nothing {
        let none = || ServiceError::Parameter("open or resume a session first".to_owned());
        let session = connection.session.get().cloned().ok_or_else(none)?;
        connection.service.acknowledge(session, params.seq).await.map(|()| Nothing {})
    }
}

fn fits<T: serde::de::DeserializeOwned>(params: Value) -> Result<(), ErrorObject> {
    serde_json::from_value::<T>(params).map(drop).map_err(|error| bad_params(&error))
}

fn told<T: Serialize>(result: Result<T, ServiceError>) -> Answer {
    match result {
        Ok(value) => Ok(serde_json::to_value(value).expect("answers are plain data")),
        Err(error) => Err(error_of(&error)),
    }
}

fn error_of(error: &ServiceError) -> ErrorObject {
    let code = match error {
        ServiceError::Request(_) => REFUSED,
        ServiceError::Unknown { .. } => NOT_FOUND,
        ServiceError::Order(OrderError::State { .. } | OrderError::NotTakenUp) => CONFLICT,
        ServiceError::Order(OrderError::Stopping) | ServiceError::Unavailable(_) => UNAVAILABLE,
        ServiceError::Store(error) if error.may_pass() => UNAVAILABLE,
        ServiceError::Store(_) => INTERNAL_ERROR,
        ServiceError::Parameter(_) => INVALID_PARAMS,
    };
    ErrorObject::new(code, error.to_string())
}

/// The parameters are not what the method takes.
pub(super) fn bad_params(error: &serde_json::Error) -> ErrorObject {
    ErrorObject::new(INVALID_PARAMS, error.to_string())
}

/// Something was asked before hello.
pub(super) fn not_greeted() -> ErrorObject {
    denied("say hello first")
}

/// The client may not do that.
pub(super) fn denied(what: &str) -> ErrorObject {
    ErrorObject::new(DENIED, what)
}

/// Describes all methods as an OpenRPC document.
pub fn discover() -> Value {
    let settings = SchemaSettings::draft07().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let takes = Hello::json_schema(&mut generator).to_value();
    let gives = generator.subschema_for::<Welcome>().to_value();
    let mut methods = vec![method("hello", &["Comes first on every connection."], takes, ("Welcome", gives))];
    methods.extend(described(&mut generator));
    // What the notifications carry.
    generator.subschema_for::<Event>();
    generator.subschema_for::<Progress>();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Hotshoe",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What clients can ask a Hotshoe host for. One JSON-RPC 2.0 message a line.",
        },
        "methods": methods,
        "components": {"schemas": generator.take_definitions(true), "errors": errors()},
    })
}

fn method(name: &str, about: &[&str], takes: Value, (result, gives): (&str, Value)) -> Value {
    let about: Vec<&str> = about.iter().map(|line| line.trim()).collect();
    let is_required =
        |name: &str| takes["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let params: Vec<Value> = (takes["properties"].as_object().into_iter().flatten())
        .map(|(name, schema)| json!({"name": name, "required": is_required(name), "schema": schema}))
        .collect();
    json!({
        "name": name,
        "summary": about.join(" "),
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": result, "schema": gives},
    })
}

fn errors() -> Value {
    let error = |code: i64, message: &str| json!({"code": code, "message": message});
    json!({
        "ParseError": error(crate::rpc::PARSE_ERROR, "not JSON"),
        "InvalidRequest": error(crate::rpc::INVALID_REQUEST, "no JSON-RPC 2.0 request, or one too many"),
        "MethodNotFound": error(crate::rpc::METHOD_NOT_FOUND, "no such method"),
        "InvalidParams": error(INVALID_PARAMS, "parameters that the method does not take"),
        "InternalError": error(INTERNAL_ERROR, "the host's own fault"),
        "Canceled": error(crate::rpc::CANCELED, "canceled by $/cancel"),
        "Refused": error(REFUSED, "understood, and yet it cannot be done as it is: scene, frames, settings"),
        "NotFound": error(NOT_FOUND, "no such job, session or subscription"),
        "Conflict": error(CONFLICT, "the job is in a state in which that cannot be done"),
        "Denied": error(DENIED, "no hello, or a wrong token, role or protocol"),
        "Unavailable": error(UNAVAILABLE, "the host is stopping, or cannot write its database"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = discover();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut count = 0;
        for pointer in references {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            count += 1;
        }
        assert!(count > 20, "{count}");
        let submit =
            document["methods"].as_array().unwrap().iter().find(|m| m["name"] == "jobs.submit").unwrap();
        let required = |p: &&Value| p["required"] == true;
        let params = submit["params"].as_array().unwrap().iter().filter(required);
        assert_eq!(params.map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(), ["scene"]);
        let names: Vec<&str> =
            document["methods"].as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
        assert!(names.contains(&"jobs.submit") && names.contains(&"hello"), "{names:?}");
    }
}
