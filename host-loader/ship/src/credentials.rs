//! Passwords and keys: from the environment, or a file that only its owner may read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kdraw::error::Error;
use serde::Deserialize;

use crate::error::ShipError;

/// What a place may ask for.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// FTP, WebDAV, SFTP: the user, where the URL names none.
    pub user: Option<String>,
    /// FTP, WebDAV.
    pub password: Option<String>,
    /// WebDAV: a bearer token in place of both.
    pub token: Option<String>,
    /// S3.
    pub access_key_id: Option<String>,
    /// S3.
    pub secret_access_key: Option<String>,
}

impl Credentials {
    /// Reads the file, if one is named, and what of the environment overrides it. S3's own
    /// variables and files are read where the requests are signed.
    ///
    /// # Errors
    /// [`ShipError::Local`] if the file cannot be read, [`ShipError::Setting`] if others may read
    /// it or it is not as it should be.
    pub fn read(file: &Path) -> Result<Self, ShipError> {
        let mut found = match file.as_os_str().is_empty() {
            true => Self::default(),
            false => Self::of_file(file)?,
        };
        for (name, value) in [
            ("KDRAW_SHIP_USER", &mut found.user),
            ("KDRAW_SHIP_PASSWORD", &mut found.password),
            ("KDRAW_SHIP_TOKEN", &mut found.token),
        ] {
            if let Ok(given) = std::env::var(name) {
                *value = Some(given);
            }
        }
        Ok(found)
    }

    fn of_file(path: &Path) -> Result<Self, ShipError> {
        let io = |action| Error::io(action, path);
        let mut file = File::open(path).map_err(io("open"))?;
        let data = file.metadata().map_err(io("look at"))?;
        let owner = rustix::process::geteuid().as_raw();
        if data.mode() & 0o077 != 0 || data.uid() != owner {
            return Err(ShipError::Setting(format!(
                "{} holds passwords, and others than user {owner} have rights on it: \
                 `chmod 600` and `chown` it",
                path.display()
            )));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io("read"))?;
        // The message shows the place, not the line: it may hold the password.
        toml::from_str(&text)
            .map_err(|why| ShipError::Setting(format!("{}: {}", path.display(), why.message())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_file_of_its_owner_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let put = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Credentials::of_file(&path)
        };
        let found = put("user = 'u'\npassword = 'p'\n", 0o600).unwrap();
        assert_eq!((found.user.as_deref(), found.token), (Some("u"), None));
        assert!(put("", 0o400).is_ok());
        for (text, mode) in [("", 0o640), ("", 0o604), ("pasword = 's3cret'", 0o600)] {
            let why = put(text, mode).err().unwrap().to_string();
            assert!(!why.contains("s3cret"), "{why}");
        }
    }
}
