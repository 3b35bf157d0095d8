//! Keys of a profile in `~/.aws/credentials` or `~/.aws/config`, as the AWS tools write them.
//!
//! Knows profiles that hold keys. Those that say how to get keys elsewhere (roles, SSO, processes) are for
//! the AWS tools, which can put keys into the environment.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use object_store::{CredentialProvider, aws::AwsCredential};

/// How long keys are used before the files are read again: who rotates them writes new ones in time.
const REREAD_AFTER: Duration = Duration::from_secs(60);

/// Where profiles are, and which one is meant.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    name: String,
    credentials: PathBuf,
    config: PathBuf,
}

impl Profile {
    /// The profile that the environment means. None without a home.
    pub(super) fn from_env() -> Option<Self> {
        let home = env::var_os("HOME").map(PathBuf::from);
        let file = |variable, name| match env::var_os(variable) {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_ref().map(|home| home.join(".aws").join(name)),
        };
        Some(Self {
            name: env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned()),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
            config: file("AWS_CONFIG_FILE", "config")?,
        })
    }

    /// The profile's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reads the profile's keys. None if it has none, or there are no files.
    ///
    /// # Errors
    /// If a file is there but cannot be read.
    pub(super) fn keys(&self) -> io::Result<Option<AwsCredential>> {
        let in_config = match self.name.as_str() {
            "default" => "default".to_owned(),
            name => format!("profile {name}"),
        };
        for (path, section) in [(&self.credentials, &self.name), (&self.config, &in_config)] {
            let Some(text) = read(path)? else { continue };
            if let Some(keys) = keys_of(&text, section) {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// The keys in one section of a file.
fn keys_of(text: &str, section: &str) -> Option<AwsCredential> {
    let mut values = HashMap::new();
    let mut is_ours = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_ours = name.split_whitespace().eq(section.split_whitespace());
        } else if let Some((name, value)) = line.split_once('=')
            && is_ours
        {
            values.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Some(AwsCredential {
        key_id: values.remove("aws_access_key_id")?,
        secret_key: values.remove("aws_secret_access_key")?,
        token: values.remove("aws_session_token"),
    })
}

/// Gives the keys of a profile, and follows changes of its files.
#[derive(Debug)]
pub(super) struct ProfileKeys {
    profile: Profile,
    known: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl ProfileKeys {
    pub(super) fn new(profile: Profile, keys: AwsCredential) -> Self {
        Self { profile, known: Mutex::new((Instant::now(), Arc::new(keys))) }
    }
}

#[async_trait]
impl CredentialProvider for ProfileKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.elapsed() >= REREAD_AFTER {
            // Two small local files, once a minute.
            match self.profile.keys() {
                Ok(Some(keys)) => known.1 = Arc::new(keys),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read the profile: its keys stay in use");
                }
            }
            known.0 = Instant::now();
        }
        Ok(Arc::clone(&known.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = AKID\naws_secret_access_key=a=b/c\n\
        [ profile  ci ]\naws_access_key_id=CI\n; aws_session_token = no\nAWS_SECRET_ACCESS_KEY = s\n\
        aws_session_token = t\n[role]\nrole_arn = arn:aws:iam::1:role/x\n";

    #[test]
    fn keys_are_found_in_their_section() {
        let keys = keys_of(FILE, "default").unwrap();
        assert_eq!(
            (keys.key_id.as_str(), keys.secret_key.as_str(), keys.token),
            ("AKID", "a=b/c", None)
        );
        let keys = keys_of(FILE, "profile ci").unwrap();
        assert_eq!((keys.key_id.as_str(), keys.token.as_deref()), ("CI", Some("t")));
        for none in ["role", "ci", "absent"] {
            assert!(keys_of(FILE, none).is_none(), "{none}");
        }
    }

    #[test]
    fn the_credentials_file_goes_before_the_config_file() {
        let folder = tempfile::tempdir().unwrap();
        let profile = |name: &str| Profile {
            name: name.to_owned(),
            credentials: folder.path().join("credentials"),
            config: folder.path().join("config"),
        };
        assert!(profile("default").keys().unwrap().is_none(), "no files are no error");
        fs::write(folder.path().join("config"), FILE).unwrap();
        assert_eq!(profile("ci").keys().unwrap().unwrap().key_id, "CI");
        let file = "[ci]\naws_access_key_id=OTHER\naws_secret_access_key=s\n";
        fs::write(folder.path().join("credentials"), file).unwrap();
        assert_eq!(profile("ci").keys().unwrap().unwrap().key_id, "OTHER");
        assert_eq!(profile("default").keys().unwrap().unwrap().key_id, "AKID");
        fs::remove_file(folder.path().join("config")).unwrap();
        fs::create_dir(folder.path().join("config")).unwrap();
        assert!(profile("default").keys().is_err());
    }
}
