//! The flags of the bucket.

use std::time::Duration;

use bbb_storage::{BucketLocation, MIN_EXPIRE_AFTER};

use super::{
    raw::Flags,
    refusal::Refusal,
    units::format_duration,
    values::{parse_flag, parse_timeout},
};

/// `--bucket` and all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketFlags {
    /// Where it is.
    pub location: BucketLocation,
    /// The region of an S3 bucket.
    pub region: String,
    /// The URL of an S3 server other than Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket is part of the endpoint's host name.
    pub virtual_hosted_style: bool,
    /// Whether blobs are written as zstd frames.
    pub compress: bool,
    /// How long what nobody touches is kept; none keeps all.
    pub expire_after: Option<Duration>,
    /// Whether writes are acknowledged before they are in the bucket.
    pub write_back: bool,
}

const DEFAULT_REGION: &str = "us-east-1";

/// The bucket that the flags ask for, if any.
///
/// # Errors
/// When a value is none of its flag's, or a flag is given that needs a bucket and there is none.
pub(super) fn resolve(flags: &Flags) -> Result<Option<BucketFlags>, Refusal> {
    let empty = [
        ("region", &flags.region, "use a region, like us-east-1"),
        ("autojoin_s3", &flags.autojoin_s3, "use a key, like members"),
    ];
    for (flag, value, right) in empty {
        if value.as_deref().is_some_and(|value| value.trim().is_empty()) {
            return Err(Refusal::value(flag, "", right));
        }
    }
    if let Some(endpoint) = flags.endpoint.as_deref() {
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if rest.is_none_or(str::is_empty) {
            let right = "use a URL, like https://s3.example.org";
            return Err(Refusal::value("endpoint", endpoint, right));
        }
    }
    let expire_after = flags.expire_after.as_deref();
    let expire_after = expire_after.map(parse_expiry).transpose()?;
    let compress = parse_flag("compress", flags.compress.as_deref(), true)?;
    let Some(bucket) = flags.bucket.as_deref() else {
        return refuse_without_bucket(flags).map(|()| None);
    };
    let location = bucket.parse::<BucketLocation>();
    Ok(Some(BucketFlags {
        location: location.map_err(|error| Refusal::value("bucket", bucket, error.to_string()))?,
        region: flags.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        endpoint: flags.endpoint.clone(),
        virtual_hosted_style: parse_flag(
            "virtual_hosted_style",
            flags.virtual_hosted_style.as_deref(),
            false,
        )?,
        compress,
        expire_after,
        write_back: parse_flag("write_back", flags.write_back.as_deref(), false)?,
    }))
}

fn parse_expiry(text: &str) -> Result<Duration, Refusal> {
    let after = parse_timeout("expire_after", Some(text), Duration::ZERO, false)?;
    match after < MIN_EXPIRE_AFTER {
        true => {
            let least = format_duration(MIN_EXPIRE_AFTER);
            Err(Refusal::value("expire_after", text, format!("use at least {least}, like 30d")))
        }
        false => Ok(after),
    }
}

/// Refuses what would do nothing without a bucket.
fn refuse_without_bucket(flags: &Flags) -> Result<(), Refusal> {
    let needing = [
        ("endpoint", flags.endpoint.is_some()),
        ("region", flags.region.is_some()),
        ("virtual_hosted_style", flags.virtual_hosted_style.is_some()),
        ("expire_after", flags.expire_after.is_some()),
        ("write_back", flags.write_back.is_some()),
    ];
    match needing.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            let what = format!("--{flag} needs --bucket: give both or neither");
            Err(Refusal::Contradiction(what))
        }
        None => Ok(()),
    }
}
