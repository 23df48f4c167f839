//! The core of redis-mesh as an Envoy network filter.
//!
//! This crate only translates: properties, buffers and callbacks of proxy-wasm on one side, calls
//! of [`redis_mesh_core::rewriter::Rewriter`] on the other. It must stand directly before
//! `tcp_proxy` or `redis_proxy`.

mod abi;
mod plugin;
mod stream;
mod vm;

use log::{error, info};
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};
use std::rc::Rc;

mod entry {
    use super::*;
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(LogLevel::Info);
        proxy_wasm::set_root_context(|id| {
            vm::add_root(id);
            Box::new(Root { id, plugin: None })
        });
    }}
}

/// A root context: one plugin configuration as Envoy holds it. The VM keeps the plugin that it
/// configures, by name.
struct Root {
    id: u32,
    /// `None` until the first configuration is accepted.
    plugin: Option<Rc<plugin::Plugin>>,
}

impl Drop for Root {
    fn drop(&mut self) {
        vm::remove_root(self.id);
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }

    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = abi::buffer(BufferType::PluginConfiguration, 0, usize::MAX);
        match vm::configure(&bytes) {
            Ok(plugin) => {
                let config = plugin.config();
                info!("redis-mesh: {} revision {}, {} hosts", config.name, config.revision, config.hosts.len());
                self.plugin = Some(plugin);
                true
            }
            Err(reason) => {
                error!("redis-mesh: configuration refused: {reason}");
                false
            }
        }
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(stream::Stream::new(id, self.plugin.clone()?)))
    }

    fn on_queue_ready(&mut self, queue: u32) {
        // One item a call: Envoy hands bytes on only when the call is over, and the next item may
        // be of the same connection.
        if let Some(id) = abi::dequeue(queue) {
            stream::pump(id);
        }
    }

    fn on_tick(&mut self) {
        let now = vm::now();
        stream::wake_due(now);
        vm::flush_stats(now);
        vm::end_tick(self.id, now);
    }
}
