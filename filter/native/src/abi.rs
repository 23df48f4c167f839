//! The C functions of Envoy's dynamic modules, ABI v0.2.0, that this crate calls, and the types in
//! their signatures.
//!
//! The source is `source/extensions/dynamic_modules/abi/abi.h` of Envoy 1.40.0. A new ABI touches
//! this file and `hooks.rs`.

use std::ffi::c_void;

/// The version of the ABI. Envoy refuses a module of another version.
pub const VERSION: &std::ffi::CStr = c"v0.2.0";

/// A pointer to an object of unknown layout: Envoy's, or one that Envoy keeps for this module.
pub type Opaque = *mut c_void;

/// `envoy_dynamic_module_type_module_buffer` and `…_envoy_buffer`: bytes of this module or of
/// Envoy, valid for the call to which they are passed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    /// The first byte; may be null if the length is 0.
    pub data: *const u8,
    /// The length in bytes.
    pub len: usize,
}

/// `envoy_dynamic_module_type_module_http_header` and `…_envoy_http_header`: a header of an HTTP
/// message.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    /// The name.
    pub key: *const u8,
    /// The length of the name in bytes.
    pub key_len: usize,
    /// The value.
    pub value: *const u8,
    /// The length of the value in bytes.
    pub value_len: usize,
}

/// `on_network_filter_data_status_Continue`: Envoy goes on with the next filter.
pub const CONTINUE: u32 = 0;
/// `on_network_filter_data_status_StopIteration`: the next filter waits.
pub const STOP: u32 = 1;

/// `http_callout_init_result_Success`: the request is sent.
pub const CALLOUT_STARTED: u32 = 0;
/// `http_callout_result_Success`: there is a response, of any status.
pub const CALLOUT_ANSWERED: u32 = 0;

/// `network_connection_event_RemoteClose`: the peer has closed the connection.
pub const REMOTE_CLOSE: u32 = 0;
/// `network_connection_event_LocalClose`: Envoy has closed the connection.
pub const LOCAL_CLOSE: u32 = 1;

/// `network_connection_close_type_FlushWrite`: buffered bytes are written, then the connection is
/// closed.
pub const FLUSH_WRITE: u32 = 0;
/// `network_connection_close_type_NoFlush`: buffered bytes are dropped.
pub const NO_FLUSH: u32 = 1;

/// `metrics_result_Success`: the metric is defined, or changed.
pub const METRICS_SUCCESS: u32 = 0;

/// `log_level_Info`.
pub const INFO: u32 = 2;
/// `log_level_Warn`.
pub const WARN: u32 = 3;
/// `log_level_Error`.
pub const ERROR: u32 = 4;

unsafe extern "C" {
    pub fn envoy_dynamic_module_callback_log(level: u32, message: Buffer);

    pub fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(filter: Opaque) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(
        filter: Opaque,
        out: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_drain_read_buffer(filter: Opaque, len: usize) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_append_read_buffer(filter: Opaque, data: Buffer) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(filter: Opaque) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(
        filter: Opaque,
        out: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_drain_write_buffer(filter: Opaque, len: usize) -> bool;

    pub fn envoy_dynamic_module_callback_network_filter_inject_write_data(
        filter: Opaque,
        data: Buffer,
        end_stream: bool,
    );
    pub fn envoy_dynamic_module_callback_network_filter_enable_half_close(filter: Opaque, enabled: bool);
    pub fn envoy_dynamic_module_callback_network_filter_inject_read_data(
        filter: Opaque,
        data: Buffer,
        end_stream: bool,
    );
    pub fn envoy_dynamic_module_callback_network_filter_close(filter: Opaque, how: u32);
    pub fn envoy_dynamic_module_callback_network_filter_read_disable(filter: Opaque, disable: bool) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_read_enabled(filter: Opaque) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_buffer_limit(filter: Opaque) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_set_buffer_limits(filter: Opaque, limit: u32);

    pub fn envoy_dynamic_module_callback_network_set_filter_state_typed(
        filter: Opaque,
        key: Buffer,
        value: Buffer,
    ) -> bool;

    pub fn envoy_dynamic_module_callback_network_filter_http_callout(
        filter: Opaque,
        id: *mut u64,
        cluster: Buffer,
        headers: *mut Header,
        headers_len: usize,
        body: Buffer,
        timeout_milliseconds: u64,
    ) -> u32;

    pub fn envoy_dynamic_module_callback_network_filter_get_cluster_host_count(
        filter: Opaque,
        cluster: Buffer,
        priority: u32,
        total: *mut usize,
        healthy: *mut usize,
        degraded: *mut usize,
    ) -> bool;

    pub fn envoy_dynamic_module_callback_network_filter_get_remote_address(
        filter: Opaque,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_local_address(
        filter: Opaque,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_upstream_host_address(
        filter: Opaque,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;

    pub fn envoy_dynamic_module_callback_lb_get_cluster_name(lb: Opaque, out: *mut Buffer);
    pub fn envoy_dynamic_module_callback_lb_get_priority_set_size(lb: Opaque) -> usize;
    pub fn envoy_dynamic_module_callback_lb_get_healthy_hosts_count(lb: Opaque, priority: u32) -> usize;
    pub fn envoy_dynamic_module_callback_lb_get_healthy_host_weight(lb: Opaque, priority: u32, index: usize) -> u32;
    pub fn envoy_dynamic_module_callback_lb_get_healthy_host_address(
        lb: Opaque,
        priority: u32,
        index: usize,
        out: *mut Buffer,
    ) -> bool;

    pub fn envoy_dynamic_module_callback_network_filter_config_define_counter(
        config: Opaque,
        name: Buffer,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_define_gauge(
        config: Opaque,
        name: Buffer,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_define_histogram(
        config: Opaque,
        name: Buffer,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_increment_counter(
        config: Opaque,
        id: usize,
        by: u64,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_increment_gauge(
        config: Opaque,
        id: usize,
        by: u64,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_decrement_gauge(
        config: Opaque,
        id: usize,
        by: u64,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_set_gauge(config: Opaque, id: usize, value: u64) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_config_record_histogram_value(
        config: Opaque,
        id: usize,
        value: u64,
    ) -> u32;

    pub fn envoy_dynamic_module_callback_network_filter_scheduler_new(filter: Opaque) -> Opaque;
    pub fn envoy_dynamic_module_callback_network_filter_scheduler_commit(scheduler: Opaque, event: u64);
    pub fn envoy_dynamic_module_callback_network_filter_scheduler_delete(scheduler: Opaque);
}
