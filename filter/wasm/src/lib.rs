//! The core of redis-mesh as an Envoy network filter.
//!
//! This crate only translates: properties, buffers and callbacks of proxy-wasm on one side, calls of
//! [`redis_mesh_core::rewriter::Rewriter`] on the other. It must stand directly before `tcp_proxy` or `redis_proxy`.

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
            vm::root_began(id);
            Box::new(Root { id, plugin: None })
        });
    }}
}

/// One plugin configuration as Envoy holds it. What it says is kept in the VM, by name.
struct Root {
    id: u32,
    plugin: Option<Rc<plugin::Plugin>>,
}

impl Drop for Root {
    fn drop(&mut self) {
        vm::root_ended(self.id);
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
        // One item a call: Envoy hands bytes on only when the call is over, and the same connection may be next.
        if let Some(context) = abi::take(queue) {
            stream::pump(context);
        }
    }

    fn on_tick(&mut self) {
        vm::tick(self.id);
    }
}
