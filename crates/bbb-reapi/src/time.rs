//! Times and durations between wire and domain.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    Invalid,
    proto::protobuf::{self, Timestamp},
};

/// The last second of the year 9999, where `google.protobuf.Timestamp` ends.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time on the wire. Times before 1970 become 1970.
pub fn to_timestamp(time: SystemTime) -> Timestamp {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: since_epoch.subsec_nanos().cast_signed(),
    }
}

/// A time from the wire.
///
/// # Errors
/// If it is before 1970 or after the year 9999, or its nanoseconds are out of range.
pub fn timestamp(timestamp: &Timestamp) -> Result<SystemTime, Invalid> {
    let since_epoch = parts("timestamp", timestamp.seconds, timestamp.nanos)?;
    if since_epoch.as_secs() > LAST_SECOND {
        return Err(Invalid::new("timestamp", "is after the year 9999"));
    }
    Ok(UNIX_EPOCH + since_epoch)
}

/// A time from the wire that was checked before; 1970 where it is out of range.
pub fn to_system_time(value: &Timestamp) -> SystemTime {
    timestamp(value).unwrap_or(UNIX_EPOCH)
}

/// A duration on the wire.
pub fn to_duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// A duration from the wire.
///
/// # Errors
/// If it is negative or its nanoseconds are out of range.
pub fn duration(duration: &protobuf::Duration) -> Result<Duration, Invalid> {
    parts("duration", duration.seconds, duration.nanos)
}

fn parts(field: &str, seconds: i64, nanos: i32) -> Result<Duration, Invalid> {
    let seconds = u64::try_from(seconds).ok();
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(Invalid::new(field, "is negative or has nanoseconds out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(timestamp(&to_timestamp(time)), Ok(time));
        let span = Duration::new(5, 6);
        assert_eq!(duration(&to_duration(span)), Ok(span));
    }

    #[test]
    fn hostile_times_are_refused() {
        assert!(duration(&protobuf::Duration { seconds: -1, nanos: 0 }).is_err());
        assert!(duration(&protobuf::Duration { seconds: 0, nanos: -1 }).is_err());
        assert!(duration(&protobuf::Duration { seconds: 0, nanos: i32::MAX }).is_err());
        assert!(timestamp(&Timestamp { seconds: i64::MAX, nanos: 0 }).is_err());
    }
}
