//! RESP, the Redis serialization protocol (<https://redis.io/docs/latest/develop/reference/protocol-spec/>): framing
//! without copying.

mod converter;
pub mod elements;
pub mod encode;
pub mod framer;
pub mod request;
pub mod resp3;
pub mod shape;
pub mod value;
