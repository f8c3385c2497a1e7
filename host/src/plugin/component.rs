//! Plugins that are WebAssembly components.
//!
//! Owns the engine. Every call gets a fresh store and instance, dropped at its
//! end whatever the end was, and with it all handles of the attempt.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use semver::Version;
use wasmtime::component::{self, InstancePre, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, FrameInfo, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap,
    UpdateDeadline, WasmBacktrace,
};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use super::bindings::v0_1::{self, RendererPlugin, RendererPluginPre, exports::hotshoe::plugin::renderer};
use super::guests::{self, Guests, Places};
use super::handles::Handles;
use super::limits::{TICK, Watch};
use super::printed::Printed;
use super::{
    DESCRIBE_LIMIT, Description, Job, Outcome, Page, PlannedTask, PluginError, TOLD, too_slow, world,
};
use crate::capability::usage::Hit;
use crate::capability::{Attempt, abridged};
use crate::config::limits::{Limits, MOST_ELEMENTS, bytes};
use crate::terms::{Capability, one_line, size};

/// The interface that makes a component a renderer plugin, but for its version.
const RENDERER: &str = "hotshoe:plugin/renderer@";
/// What is said of a recursion without an end.
const TOO_DEEP: &str = "stack overflow: its functions call each other too deep";
/// How many functions are told of a trap, and how much of their names.
const FUNCTIONS: usize = 8;
const FUNCTION_NAME: usize = 120;
/// Parts of the names of the functions by which Rust panics.
const PANICKING: [&str; 7] =
    ["panic", "abort", "rust_begin_unwind", "std::sys::", "std::process", "backtrace", "__rust_"];
/// How far from address 0, where it ends, a stack that is full is written to: a frame has at most
/// 64 MiB.
const LARGEST_FRAME: u64 = 64 * 1024 * 1024;
/// How many calls of components may be under way at a time.
const CALLS: u32 = 512;

/// The engine of all components of a host.
#[derive(Clone)]
pub struct Components {
    engine: Engine,
    linker: Arc<Linker<Data>>,
    guests: Guests,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Components").finish_non_exhaustive()
    }
}

/// What a call into an instance comes to.
type Answered<'a, T> = BoxFuture<'a, wasmtime::Result<T>>;

/// What belongs to one store.
pub struct Data {
    /// What it holds of the host.
    pub handles: Handles,
    watch: Watch,
    wasi: WasiCtx,
    /// Apart, so that a plugin out of handles can still say so.
    wasi_table: ResourceTable,
    stderr: Printed,
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.wasi_table }
    }
}

impl Components {
    /// Makes an engine whose epoch advances by itself as long as it lives.
    pub fn new() -> wasmtime::Result<Self> {
        let engine = engine(CALLS)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        v0_1::add_to_linker(&mut linker)?;
        let weak = engine.weak();
        std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { engine, linker: Arc::new(linker), guests: Guests::start()? })
    }

    /// Names what compiled code depends on besides its source.
    pub fn compatibility(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// Compiles a component.
    pub fn compile(&self, bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
        precompile(&self.engine, bytes)
    }

    /// Loads what [`compile`](Self::compile) made of a plugin.
    ///
    /// # Safety
    /// The file must be one that this program has written, in a folder that
    /// nobody else can write: it is native code.
    pub unsafe fn load(&self, compiled: &Path, plugin: &str) -> Result<Component, PluginError> {
        let failed = |error: wasmtime::Error| PluginError::Host(format!("{error:#}"));
        // SAFETY: as the caller promises.
        let component = unsafe { component::Component::deserialize_file(&self.engine, compiled) };
        let component = component.map_err(failed)?;
        let api = self.api(&component)?;
        let pre = self.linker.instantiate_pre(&component).and_then(RendererPluginPre::new);
        let pre = pre.map_err(|error| {
            PluginError::Contract(match api > v0_1::API {
                // It uses what came later.
                true => format!("{}: {error:#}", other_api(&api)),
                false => format!("{error:#}"),
            })
        })?;
        let (wanted, places) = (self.imported(&component), self.guests.places(plugin));
        Ok(Component { components: self.clone(), pre, api, wanted, places })
    }

    /// Compiles and links any component, of whatever world: for measurements.
    pub fn prepare_bare(&self, bytes: &[u8]) -> wasmtime::Result<InstancePre<Data>> {
        self.linker.instantiate_pre(&component::Component::new(&self.engine, bytes)?)
    }

    /// Makes the store that any call gets, without an attempt: for measurements.
    pub fn bare_store(&self) -> Store<Data> {
        self.store(None, &Limits::default())
    }

    /// Returns the version of the contract that a component is built for. Within a minor
    /// version the contract only grows, so what is older fits, and what is newer fits if it
    /// uses nothing new: the linker knows.
    fn api(&self, component: &component::Component) -> Result<Version, PluginError> {
        let kind = component.component_type();
        let renderer = |(name, _): (&str, _)| name.strip_prefix(RENDERER).map(Version::parse);
        match kind.exports(&self.engine).find_map(renderer) {
            Some(Ok(api)) if v0_1::is_near(&api) => Ok(api),
            Some(Ok(api)) => Err(PluginError::Contract(other_api(&api))),
            _ => {
                let what = format!("it exports no {RENDERER}{}, so it is no renderer plugin", v0_1::API);
                Err(PluginError::Contract(what))
            }
        }
    }

    /// Returns the capabilities that a component imports.
    fn imported(&self, component: &component::Component) -> Vec<Capability> {
        let kind = component.component_type();
        let imports: Vec<String> = kind.imports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        let capability = |name: &String| {
            let name = name.strip_prefix("hotshoe:plugin/")?.split('@').next()?;
            name.parse::<Capability>().ok()
        };
        imports.iter().filter_map(capability).collect()
    }

    fn store(&self, attempt: Option<Arc<Attempt>>, limits: &Limits) -> Store<Data> {
        let stderr = Printed::default();
        let wasi = world::make(attempt.as_deref(), stderr.clone());
        let (handles, watch) = (Handles::new(attempt, limits), Watch::new(*limits));
        let mut wasi_table = ResourceTable::new();
        wasi_table.set_max_capacity(limits.handles);
        let data = Data { handles, watch, wasi, wasi_table, stderr };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|data| &mut data.watch);
        store.set_hostcall_fuel(bytes(limits.copied_mib) as usize);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let data = store.data_mut();
            data.watch.tick(guests::time(), data.handles.calls())?;
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }
}

/// Says that a component is built for another version of the contract.
fn other_api(api: &Version) -> String {
    format!("it is built for API {api}, this host serves API {}", v0_1::API)
}

/// Compiles a component where nothing is run: in a process that does nothing else.
pub fn compile(bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    let failed = |error: wasmtime::Error| PluginError::Host(format!("{error:#}"));
    precompile(&engine(1).map_err(failed)?, bytes)
}

/// Makes an engine with room for so many calls at a time; the code is the same for any number.
fn engine(calls: u32) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true).consume_fuel(false).concurrency_support(false);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(calls)));
    Engine::new(&config)
}

fn precompile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    let invalid = |error| PluginError::Contract(format!("it is no valid component: {error:#}"));
    engine.precompile_component(bytes).map_err(invalid)
}

/// Reserves room for instances, so that making one needs no call of the kernel.
/// What a small instance dirties is zeroed and kept (docs/decisions/004).
fn pool(calls: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // What a plugin may use of it is its own limit.
    pool.table_elements(MOST_ELEMENTS);
    pool.total_component_instances(calls).total_stacks(calls).total_memories(calls * 2);
    pool.total_core_instances(calls * 10).total_tables(calls * 10).max_component_instance_size(1024 * 1024);
    pool.linear_memory_keep_resident(128 * 1024)
        .table_keep_resident(16 * 1024)
        .async_stack_keep_resident(32 * 1024);
    pool
}

/// A compiled component that can be instantiated.
pub struct Component {
    components: Components,
    pre: RendererPluginPre<Data>,
    /// The version of the contract that it is built for.
    pub(super) api: Version,
    wanted: Vec<Capability>,
    places: Places,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").finish_non_exhaustive()
    }
}

impl Component {
    /// Returns the capabilities that it imports.
    pub fn wanted(&self) -> Vec<Capability> {
        self.wanted.clone()
    }

    /// See [`Plugin::describe`](super::Plugin::describe).
    pub async fn describe(&self, limits: &Limits) -> Result<Description, PluginError> {
        let call = self.call(None, *limits, |store, plugin| {
            Box::pin(plugin.hotshoe_plugin_renderer().call_describe(store))
        });
        let description = tokio::time::timeout(DESCRIBE_LIMIT, call).await.map_err(|_| too_slow())??;
        Description::read(&description.summary, &description.settings_schema, limits)
    }

    /// See [`Plugin::plan`](super::Plugin::plan). Without an attempt every
    /// capability is denied.
    pub async fn plan(
        &self,
        attempt: Option<Arc<Attempt>>,
        job: &Job,
        cursor: Option<&str>,
    ) -> Result<Page, PluginError> {
        let (job, cursor) = (renderer::Job::from(job), cursor.map(str::to_owned));
        let limits = attempt.as_ref().map(|attempt| attempt.by.limits).unwrap_or_default();
        let page = self.call(attempt, limits, |store, plugin| {
            Box::pin(async move {
                plugin.hotshoe_plugin_renderer().call_plan(store, &job, cursor.as_deref()).await
            })
        });
        let page = Page::from(page.await?.map_err(|error| PluginError::Answer(error.into()))?);
        page.check()?;
        Ok(page)
    }

    /// See [`Plugin::render`](super::Plugin::render).
    pub async fn render(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        task: &PlannedTask,
        number: u32,
    ) -> Result<Outcome, PluginError> {
        let task = renderer::Task::new(job, task, number);
        let limits = attempt.by.limits;
        let outcome = self.call(Some(attempt), limits, |store, plugin| {
            Box::pin(async move { plugin.hotshoe_plugin_renderer().call_render(store, &task).await })
        });
        let outcome = outcome.await?.map_err(|error| PluginError::Answer(error.into()))?;
        Ok(outcome.into())
    }

    /// Asks for the first page of a plan on the thread that asks: for measurements.
    pub async fn plan_here(&self, job: &Job) -> Result<Page, PluginError> {
        let job = renderer::Job::from(job);
        let page = self.made(None, Limits::default(), |store, plugin| {
            Box::pin(async move { plugin.hotshoe_plugin_renderer().call_plan(store, &job, Some("0")).await })
        });
        Ok(page.await?.map_err(|error| PluginError::Answer(error.into()))?.into())
    }

    /// Makes one call in a store of its own, on the threads of guests.
    async fn call<T: Send + 'static>(
        &self,
        attempt: Option<Arc<Attempt>>,
        limits: Limits,
        call: impl for<'a> FnOnce(&'a mut Store<Data>, &'a RendererPlugin) -> Answered<'a, T> + Send + 'static,
    ) -> Result<T, PluginError> {
        self.components.guests.run(&self.places, attempt.clone(), self.made(attempt, limits, call)).await
    }

    fn made<T: Send + 'static>(
        &self,
        attempt: Option<Arc<Attempt>>,
        limits: Limits,
        call: impl for<'a> FnOnce(&'a mut Store<Data>, &'a RendererPlugin) -> Answered<'a, T> + Send + 'static,
    ) -> impl Future<Output = Result<T, PluginError>> + Send + 'static {
        let (mut store, pre) = (self.components.store(attempt.clone(), &limits), self.pre.clone());
        async move {
            let result = match pre.instantiate_async(&mut store).await {
                Ok(plugin) => call(&mut store, &plugin).await,
                Err(error) => Err(error),
            };
            if let Some(attempt) = attempt {
                attempt.had_memory(store.data().watch.memory() as u64);
            }
            result.map_err(|error| explain(&error, store.data_mut(), &limits))
        }
    }
}

/// Says in words what ended an instance.
fn explain(error: &wasmtime::Error, data: &mut Data, limits: &Limits) -> PluginError {
    let hit = error.downcast_ref::<Hit>().cloned().or_else(|| data.watch.tripped());
    if let Some(hit) = hit.or_else(|| own_limit(&error.root_cause().to_string(), limits)) {
        return PluginError::Limit(hit.to_string());
    }
    let printed = data.stderr.text();
    let trapped = |what: &str| PluginError::Trap(format!("{what}{}", calls_of(error)));
    if error.downcast_ref::<I32Exit>().is_some() {
        let printed = abridged(printed, TOLD);
        return PluginError::Trap(format!("it called exit\n{printed}").trim().to_owned());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) if !printed.is_empty() => {
            PluginError::Panic(format!("{}{}", abridged(panic_text(&printed), TOLD), calls_of(error)))
        }
        Some(Trap::StackOverflow) => trapped(TOO_DEEP),
        Some(Trap::MemoryOutOfBounds) if is_below_memory(&format!("{error:#}")) => trapped(TOO_DEEP),
        Some(trap) => trapped(trap.to_string().trim_start_matches("wasm trap: ")),
        // It was given a handle, a text or an answer that is none.
        None => PluginError::Contract(format!("{}{}", error.root_cause(), calls_of(error))),
    }
}

/// Lists the functions that called each other when it happened, the last one first.
fn calls_of(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let name = |frame: &FrameInfo| match frame.func_name() {
        Some(name) => one_line(&format!("{:#}", rustc_demangle::demangle(name)), FUNCTION_NAME),
        None => format!("function {}", frame.func_index()),
    };
    let names = backtrace.frames().iter().map(name);
    // How Rust panics is of no use to anybody.
    let names = names.skip_while(|name| PANICKING.iter().any(|part| name.contains(part)));
    let mut names: Vec<String> = names.collect();
    names.dedup();
    names.iter().take(FUNCTIONS).map(|name| format!("\n  in {name}")).collect()
}

/// What wasmtime limits by itself, it tells as text.
fn own_limit(text: &str, limits: &Limits) -> Option<Hit> {
    if text.contains("fuel allocated for hostcalls") {
        let most = size(bytes(limits.copied_mib));
        return Some(Hit::new("copied_mib", format!("{most} that one call of the host copies")));
    }
    let what = || format!("{} instances, memories or tables each", limits.instances);
    text.contains("count too high").then(|| Hit::new("instances", what()))
}

/// Whether a program has left its memory at its lower end: there is the stack that compilers
/// make, and it grows down.
fn is_below_memory(error: &str) -> bool {
    let address = error.split("wasm address 0x").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.and_then(|address| u64::from_str_radix(address, 16).ok());
    // Below 0 are the highest addresses; what is added to them for a field may lead beyond.
    address.is_some_and(|address| address.abs_diff(1 << 32) < LARGEST_FRAME)
}

/// Finds the panic among what the plugin printed: Rust's first line names the
/// place, the ones after it the reason.
fn panic_text(printed: &str) -> String {
    let text = match printed.rfind("panicked at ") {
        Some(start) => &printed[start + "panicked at ".len()..],
        None => printed,
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note: "));
    let lines: Vec<&str> = lines.collect();
    match lines.split_first() {
        Some((place, reason)) if !reason.is_empty() => {
            format!("{} (at {})", reason.join(" "), place.trim_end_matches(':'))
        }
        _ => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_reason_and_place() {
        let printed = "thread '<unnamed>' (1) panicked at src/lib.rs:9:5:\nno luck today\n\
                       note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";
        assert_eq!(panic_text(printed), "no luck today (at src/lib.rs:9:5)");
        assert_eq!(panic_text("out of memory"), "out of memory");
    }
}
