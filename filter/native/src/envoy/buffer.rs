//! Bytes that this module and Envoy lend each other for one call.

use crate::abi::{Buffer, Header};

/// The place of a buffer that Envoy will fill in.
pub const EMPTY: Buffer = Buffer { data: std::ptr::null(), len: 0 };

/// Lends bytes to Envoy, which may not be kept beyond the call.
pub fn lend(bytes: &[u8]) -> Buffer {
    Buffer { data: bytes.as_ptr(), len: bytes.len() }
}

/// The bytes of a buffer that Envoy has given out.
///
/// # Safety
/// The buffer is one that Envoy has given out and that is still valid, and Envoy isn't called
/// while the result is in use: a call may change or free the bytes.
pub unsafe fn bytes<'a>(buffer: Buffer) -> &'a [u8] {
    if buffer.data.is_null() || buffer.len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for `len` bytes at this address that don't change while the
    // result is in use.
    unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) }
}

/// True if the headers of a response name the status 200.
///
/// # Safety
/// `headers` is null or points to `len` headers that Envoy has given out and that are valid for
/// this call.
pub unsafe fn has_status_200(headers: *const Header, len: usize) -> bool {
    if headers.is_null() {
        return false;
    }
    // SAFETY: the pointer isn't null, so the caller vouches for `len` headers.
    let headers = unsafe { std::slice::from_raw_parts(headers, len) };
    headers.iter().any(|header| {
        let key = Buffer { data: header.key, len: header.key_len };
        let value = Buffer { data: header.value, len: header.value_len };
        // SAFETY: the caller vouches for the header's name and value, and Envoy isn't called while
        // they are compared.
        unsafe { bytes(key) == b":status" && bytes(value) == b"200" }
    })
}
