//! What an action used, as a message that any client can read.

use std::collections::BTreeMap;

use bbb_reapi::proto::protobuf::Any;
use bbb_sandbox::Usage;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};

/// The well-known type that carries names and numbers: unlike a type of our own, every client and tool can
/// decode and print it.
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// The `auxiliary_metadata` of a result: a `google.protobuf.Struct` with the numbers `user_cpu_ms`,
/// `system_cpu_ms`, `max_rss_bytes` (of the largest process), `peak_memory_bytes` (of all together, where
/// control groups tell it), `read_bytes` and `written_bytes` (block devices).
pub(crate) fn to_any(usage: &Usage) -> Any {
    let number = |name: &str, number: f64| {
        (name.to_owned(), Value { kind: Some(Kind::NumberValue(number)) })
    };
    let mut fields = BTreeMap::from([
        number("user_cpu_ms", usage.user.as_secs_f64() * 1e3),
        number("system_cpu_ms", usage.system.as_secs_f64() * 1e3),
        number("max_rss_bytes", usage.max_rss_bytes as f64),
        number("read_bytes", usage.read_bytes as f64),
        number("written_bytes", usage.written_bytes as f64),
    ]);
    fields.extend(usage.peak_memory_bytes.map(|bytes| number("peak_memory_bytes", bytes as f64)));
    Any { type_url: STRUCT.into(), value: Struct { fields }.encode_to_vec() }
}
