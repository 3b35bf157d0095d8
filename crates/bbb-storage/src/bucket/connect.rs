//! From settings to what speaks to the bucket. Nothing is sent yet.

use std::{env, fs, io, path::Path, sync::Arc};

use object_store::{
    ClientConfigKey, ClientOptions, HeaderMap, HeaderValue, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider},
    local::LocalFileSystem,
};

use super::{
    BucketError, BucketLocation, BucketSettings, Objects,
    profile::{Profile, ProfileKeys},
    retry::chain,
    wire::Wire,
};

/// What of a client's settings ours or the environment's may have set.
const CLIENT_KEYS: [ClientConfigKey; 12] = [
    ClientConfigKey::AllowHttp,
    ClientConfigKey::AllowInvalidCertificates,
    ClientConfigKey::ConnectTimeout,
    ClientConfigKey::Http1Only,
    ClientConfigKey::Http2Only,
    ClientConfigKey::PoolIdleTimeout,
    ClientConfigKey::PoolMaxIdlePerHost,
    ClientConfigKey::ProxyUrl,
    ClientConfigKey::ProxyCaCertificate,
    ClientConfigKey::ProxyExcludes,
    ClientConfigKey::Timeout,
    ClientConfigKey::UserAgent,
];

/// Makes what speaks to the bucket.
pub(super) fn connect(settings: &BucketSettings) -> Result<Objects, BucketError> {
    match &settings.location {
        BucketLocation::S3 { bucket, .. } => {
            let mut builder = AmazonS3Builder::from_env();
            if let Some(credentials) = profile_credentials()? {
                builder = builder.with_credentials(credentials);
            }
            s3(builder, bucket, settings)
        }
        BucketLocation::Folder(folder) => self::folder(folder)
            .map_err(|source| BucketError::Folder { folder: folder.clone(), source }),
    }
}

fn folder(folder: &Path) -> io::Result<Objects> {
    fs::create_dir_all(folder)?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?;
    // What is acknowledged is durable.
    Ok(Objects::folder(store.with_fsync(true)))
}

/// The same for S3, with what a builder knows already: credentials above all.
pub(super) fn s3(
    builder: AmazonS3Builder,
    bucket: &str,
    settings: &BucketSettings,
) -> Result<Objects, BucketError> {
    // Another part of the process may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = builder
        .with_bucket_name(bucket)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(settings.virtual_hosted_style)
        // Ours retries, with one deadline over all.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_http_connector(Wire::default());
    for (key, value) in [
        (ClientConfigKey::ConnectTimeout, "5 seconds"),
        // Never the first to give up: each attempt has a time-out of ours.
        (ClientConfigKey::Timeout, "10 minutes"),
        (ClientConfigKey::PoolIdleTimeout, "60 seconds"),
        (ClientConfigKey::PoolMaxIdlePerHost, "256"),
        (ClientConfigKey::UserAgent, concat!("buildbuildbuild/", env!("CARGO_PKG_VERSION"))),
    ] {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = with_endpoint(builder, endpoint, bucket, settings.virtual_hosted_style)?;
    }
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    let is_sealed = endpoint.is_none_or(|endpoint| endpoint.starts_with("https://"));
    // TLS protects bodies already, and the hash of each would cost three times as much as all else.
    builder = builder.with_unsigned_payload(is_sealed);
    let failed = |error: object_store::Error| BucketError::Settings { what: chain(&error) };
    let copier = copier(builder.clone()).build().map_err(failed)?;
    let store = builder.build().map_err(failed)?;
    Ok(Objects::with_parts(Arc::new(store)).with_copier(Arc::new(copier)))
}

/// The same client, but what it copies gets new metadata: only so does S3 copy an object onto itself.
fn copier(builder: AmazonS3Builder) -> AmazonS3Builder {
    let options = CLIENT_KEYS.iter().fold(ClientOptions::new(), |options, key| {
        match builder.get_config_value(&AmazonS3ConfigKey::Client(*key)) {
            Some(value) => options.with_config(*key, value),
            None => options,
        }
    });
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-metadata-directive", HeaderValue::from_static("REPLACE"));
    builder.with_client_options(options.with_default_headers(headers))
}

fn with_endpoint(
    builder: AmazonS3Builder,
    endpoint: &str,
    bucket: &str,
    virtual_hosted_style: bool,
) -> Result<AmazonS3Builder, BucketError> {
    let endpoint = endpoint.trim_end_matches('/');
    let bad = || BucketError::Endpoint { endpoint: endpoint.to_owned() };
    let (scheme, host) = endpoint.split_once("://").ok_or_else(bad)?;
    if !matches!(scheme, "http" | "https") || host.is_empty() || host.contains(['/', ' ']) {
        return Err(bad());
    }
    // The library wants the bucket to be in it.
    let url = match virtual_hosted_style {
        true => format!("{scheme}://{bucket}.{host}"),
        false => endpoint.to_owned(),
    };
    Ok(builder.with_endpoint(url).with_allow_http(scheme == "http"))
}

/// Whether the environment or a profile says where keys come from. If not, the library asks the machine's
/// metadata service, which few machines have.
pub(super) fn are_keys_named() -> bool {
    const SOURCES: [&str; 4] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    SOURCES.iter().any(|variable| is_set(variable)) || matches!(profile_credentials(), Ok(Some(_)))
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// The keys of a profile, where the environment has none that go before it. Without a profile either, the
/// library asks the container's or the machine's metadata service.
fn profile_credentials() -> Result<Option<AwsCredentialProvider>, BucketError> {
    if is_set("AWS_ACCESS_KEY_ID") {
        return Ok(None);
    }
    let is_asked_for = is_set("AWS_PROFILE");
    if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") && !is_asked_for {
        return Ok(None);
    }
    let Some(profile) = Profile::from_env() else { return Ok(None) };
    match profile.keys() {
        Ok(Some(keys)) => Ok(Some(Arc::new(ProfileKeys::new(profile, keys)))),
        Ok(None) if is_asked_for => Err(BucketError::Profile {
            name: profile.name().to_owned(),
            what: "it holds no keys".to_owned(),
        }),
        Ok(None)
            if is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
                || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI") =>
        {
            Ok(None)
        }
        // As the AWS tools take it: the machine is not to be asked.
        Ok(None) if env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|is| is == "true") => {
            let what = "AWS_EC2_METADATA_DISABLED keeps the metadata service from being asked";
            Err(BucketError::NoKeys { what: what.to_owned() })
        }
        Ok(None) => Ok(None),
        Err(error) => {
            Err(BucketError::Profile { name: profile.name().to_owned(), what: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: &str) -> BucketSettings {
        let mut settings = BucketSettings::new("s3://builds".parse().unwrap());
        settings.endpoint = Some(endpoint.to_owned());
        settings
    }

    #[test]
    fn an_endpoint_is_a_url_of_a_server() {
        for bad in ["localhost:9000", "ftp://a", "http://", "https://a/b c", "https://a/path"] {
            let error = connect(&settings(bad)).unwrap_err();
            assert!(matches!(error, BucketError::Endpoint { .. }), "{bad}: {error}");
        }
        let good = connect(&settings("http://127.0.0.1:9000/")).unwrap();
        assert!(good.parts.is_some());
        let mut hosted = settings("https://storage.example");
        hosted.virtual_hosted_style = true;
        connect(&hosted).unwrap();
    }

    #[test]
    fn a_folder_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        connect(&BucketSettings::new(BucketLocation::Folder(path.clone()))).unwrap();
        assert!(path.is_dir());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = connect(&BucketSettings::new(BucketLocation::Folder(file))).unwrap_err();
        assert!(matches!(error, BucketError::Folder { .. }), "{error}");
    }
}
