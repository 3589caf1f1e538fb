//! Where to ship to: what a URL says.
//!
//! `SCHEME://[USER@]HOST[:PORT]/FOLDER[?KEY=VALUE&…]`, or the path of a folder. What stands there is
//! taken as it is: nothing is percent-decoded.

use std::path::PathBuf;

/// A place, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Url {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A server.
    Server(Server),
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SFTP over SSH.
    Sftp,
    /// FTP.
    Ftp,
    /// FTP that asks for TLS before it logs in.
    Ftps,
    /// WebDAV over HTTP.
    Http,
    /// WebDAV over HTTPS.
    Https,
    /// S3.
    S3,
}

/// Scheme and protocol.
const SCHEMES: [(&str, Protocol); 6] = [
    ("sftp", Protocol::Sftp),
    ("ftp", Protocol::Ftp),
    ("ftps", Protocol::Ftps),
    ("http", Protocol::Http),
    ("https", Protocol::Https),
    ("s3", Protocol::S3),
];

/// A server's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How to talk to it.
    pub protocol: Protocol,
    /// The user, if one is named.
    pub user: Option<String>,
    /// Host and port, if one is named; S3's bucket.
    pub host: String,
    /// The folder, with a slash at its beginning.
    pub folder: String,
    /// S3: the address of the service.
    pub endpoint: Option<String>,
    /// S3: the region.
    pub region: Option<String>,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.starts_with('/') {
                true => Ok(Self::Folder(text.into())),
                false => Err(format!(
                    "`{text}` is neither a path that begins with `/` nor a URL"
                )),
            };
        };
        let known = SCHEMES.iter().find(|(name, _)| *name == scheme);
        let Some((_, protocol)) = known else {
            let names = SCHEMES.map(|(name, _)| name).join(", ");
            return Err(format!("`{scheme}` is none of {names}"));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, folder) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(
                "a password in a URL can be read by everyone on this machine: put it into the \
                 environment or the credentials file, as `kdraw ship --help` says"
                    .into(),
            );
        }
        if host.is_empty() {
            return Err(format!("`{text}` names no host"));
        }
        let mut server = Server {
            protocol: *protocol,
            user: user.map(str::to_owned),
            host: host.to_owned(),
            folder: folder.to_owned(),
            endpoint: None,
            region: None,
        };
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            match (protocol, setting.split_once('=')) {
                (Protocol::S3, Some(("endpoint", value))) => server.endpoint = Some(value.into()),
                (Protocol::S3, Some(("region", value))) => server.region = Some(value.into()),
                _ => return Err(format!("`{setting}` is no setting of {scheme}://")),
            }
        }
        Ok(Self::Server(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        match Url::parse(text) {
            Ok(Url::Server(server)) => server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(Url::parse("/mnt/a"), Ok(Url::Folder("/mnt/a".into())));
        let found = server("sftp://me@host:22/a/b");
        assert_eq!(found.protocol, Protocol::Sftp);
        assert_eq!(found.user.as_deref(), Some("me"));
        assert_eq!((&*found.host, &*found.folder), ("host:22", "/a/b"));
        // A mail address as a user's name, an IPv6 address as a host's.
        let found = server("https://me@mail.example@[::1]:80");
        assert_eq!(found.user.as_deref(), Some("me@mail.example"));
        assert_eq!((&*found.host, &*found.folder), ("[::1]:80", "/"));
        let found = server("s3://bucket/a?endpoint=http://127.0.0.1:9&region=r");
        assert_eq!(found.endpoint.as_deref(), Some("http://127.0.0.1:9"));
        assert_eq!(
            (&*found.host, found.region.as_deref()),
            ("bucket", Some("r"))
        );
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "mnt/a",
            "gopher://host/",
            "ftp:///a",
            "ftp://me:secret@host/",
            "ftp://host/?endpoint=x",
            "s3://bucket/?key=x",
        ] {
            let why = Url::parse(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
