//! Renaming over FTP, which OpenDAL's service lacks.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use suppaftp::tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream};
use suppaftp::tokio_rustls::TlsConnector;
use suppaftp::{FtpError, FtpResult};

/// The port, where the URL names none.
const PORT: u16 = 21;

/// How to log in.
pub struct Account {
    /// Host and port.
    pub host: String,
    /// Whether TLS is asked for (RFC 4217).
    pub secure: bool,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The folder to work in.
    pub folder: String,
}

impl Account {
    /// Renames a file of the folder.
    ///
    /// # Errors
    /// What the server said.
    pub async fn rename(&self, from: &str, to: &str) -> FtpResult<()> {
        // As OpenDAL's service takes it apart.
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().unwrap_or(PORT)),
            _ => (&*self.host, PORT),
        };
        let name = name.trim_matches(['[', ']']);
        let mut session = AsyncRustlsFtpStream::connect((name, port)).await?;
        if self.secure {
            let mut trusted = RootCertStore::empty();
            trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let config = ClientConfig::builder()
                .with_root_certificates(trusted)
                .with_no_client_auth();
            let connector = AsyncRustlsConnector::from(TlsConnector::from(Arc::new(config)));
            session = session.into_secure(connector, name).await?;
        }
        session.login(&self.user, &self.password).await?;
        session.cwd(&self.folder).await?;
        session.rename(from, to).await?;
        // It is renamed; how the session ends is no matter.
        match session.quit().await {
            Ok(()) | Err(FtpError::ConnectionError(_) | FtpError::UnexpectedResponse(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }
}
