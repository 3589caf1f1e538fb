//! A place that dumps are shipped to: OpenDAL's operator for it, and what it can do.

use std::path::PathBuf;
use std::time::Duration;

use opendal::layers::RetryLayer;
use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::credentials::Credentials;
use crate::error::{ShipError, causes, reason};
use crate::ftp::Account;
use crate::url::{Protocol, Server, Url};

/// How long a server may take to accept a connection, and may leave sent bytes unacknowledged.
const ANSWER: Duration = Duration::from_secs(30);

/// Where to.
pub struct Place {
    /// Its name in messages and notes: the URL as it was given.
    pub name: String,
    url: Url,
    credentials: Credentials,
}

/// A connection to it, or rather the means to make some.
pub struct Connection {
    /// All but appending.
    pub operator: Operator,
    /// What can append; none if the service cannot.
    pub appender: Option<Operator>,
    /// How a file gets its final name.
    pub naming: Naming,
}

/// How a file gets its final name.
pub enum Naming {
    /// It has it from the beginning, and is visible only when it is whole.
    Whole,
    /// OpenDAL renames it.
    Rename,
    /// We do: OpenDAL's FTP has no renaming.
    Ftp(Account),
}

impl Place {
    /// A place, and what opens it.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(name: &str, credentials: Credentials) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            url: Url::parse(name)?,
            credentials,
        })
    }

    /// The folder, if it is one of this machine.
    pub fn folder(&self) -> Option<&PathBuf> {
        match &self.url {
            Url::Folder(path) => Some(path),
            Url::Server(_) => None,
        }
    }

    /// Whether it takes a file only as a whole, in one go.
    pub fn takes_whole_files(&self) -> bool {
        let http = |server: &Server| matches!(server.protocol, Protocol::Http | Protocol::Https);
        matches!(&self.url, Url::Server(server) if http(server))
    }

    /// Prepares connections.
    ///
    /// # Errors
    /// [`ShipError`].
    pub fn connect(&self) -> Result<Connection, ShipError> {
        match &self.url {
            // An NFS mount that is not mounted is a folder, too: what is below it is not there.
            Url::Folder(path) if !path.is_dir() => Err(ShipError::Unreachable {
                place: self.name.clone(),
                why: "there is no such folder; make it, or mount what it is on".into(),
            }),
            Url::Folder(path) => {
                let root = path.to_string_lossy();
                let operator = self.operator(services::Fs::default().root(&root))?;
                Ok(Connection {
                    appender: Some(operator.clone()),
                    operator,
                    naming: Naming::Rename,
                })
            }
            Url::Server(server) => self.server(server),
        }
    }

    fn server(&self, server: &Server) -> Result<Connection, ShipError> {
        let user = server.user.as_deref().or(self.credentials.user.as_deref());
        let password = self.credentials.password.as_deref().unwrap_or_default();
        let whole = |operator, naming| Connection {
            operator,
            appender: None,
            naming,
        };
        Ok(match server.protocol {
            Protocol::Sftp => {
                let operator = self.operator(
                    services::Sftp::default()
                        .endpoint(&format!("ssh://{}", server.host))
                        .user(user.unwrap_or_default())
                        .root(&server.folder),
                )?;
                Connection {
                    appender: Some(unchecked(&operator)),
                    operator,
                    naming: Naming::Rename,
                }
            }
            Protocol::Ftp | Protocol::Ftps => {
                let account = Account {
                    host: server.host.clone(),
                    secure: server.protocol == Protocol::Ftps,
                    user: user.unwrap_or("anonymous").to_owned(),
                    password: match (user, password) {
                        (None, "") => "kdraw@".to_owned(),
                        _ => password.to_owned(),
                    },
                    folder: server.folder.clone(),
                };
                let scheme = if account.secure { "ftps" } else { "ftp" };
                let operator = self.operator(
                    services::Ftp::default()
                        .endpoint(&format!("{scheme}://{}", server.host))
                        .user(&account.user)
                        .password(&account.password)
                        .root(&server.folder),
                )?;
                Connection {
                    appender: Some(unchecked(&operator)),
                    operator,
                    naming: Naming::Ftp(account),
                }
            }
            Protocol::Http | Protocol::Https => {
                let secure = server.protocol == Protocol::Https;
                let scheme = if secure { "https" } else { "http" };
                let operator = self.operator(
                    services::Webdav::default()
                        .endpoint(&format!("{scheme}://{}", server.host))
                        .username(user.unwrap_or_default())
                        .password(password)
                        .token(self.credentials.token.as_deref().unwrap_or_default())
                        .root(&server.folder),
                )?;
                whole(over_http(operator, secure)?, Naming::Rename)
            }
            Protocol::S3 => {
                let endpoint = server.endpoint.as_deref().unwrap_or_default();
                let given = |value: &Option<String>| value.clone().unwrap_or_default();
                let mut service = services::S3::default()
                    .bucket(&server.host)
                    .root(&server.folder)
                    .endpoint(endpoint)
                    .access_key_id(&given(&self.credentials.access_key_id))
                    .secret_access_key(&given(&self.credentials.secret_access_key))
                    // To ask for it takes minutes where there is none, and no board is one.
                    .disable_ec2_metadata();
                match (&server.region, endpoint) {
                    (Some(region), _) => service = service.region(region),
                    // Whoever has a store of his own seldom has several regions.
                    (None, endpoint) if !endpoint.is_empty() => {
                        service = service.region("us-east-1");
                    }
                    (None, _) => {}
                }
                let operator = self.operator(service)?;
                let operator = over_http(operator, !endpoint.starts_with("http://"))?;
                // The pieces of a file are sent again, each for itself.
                let again = RetryLayer::new()
                    .with_max_times(4)
                    .with_min_delay(Duration::from_secs(1))
                    .with_max_delay(Duration::from_secs(8));
                whole(operator.layer(again), Naming::Whole)
            }
        })
    }

    fn operator(&self, service: impl opendal::Builder) -> Result<Operator, ShipError> {
        Operator::new(service)
            .map_err(|why| ShipError::Setting(format!("{}: {}", self.name, reason(&why))))
    }
}

/// The service itself, without the checks above it. SFTP's appends, but does not say that it can;
/// FTP's does not tell how long a file has become, which is demanded of whoever appends.
fn unchecked(operator: &Operator) -> Operator {
    Operator::from_parts(OperationContext::new(), operator.base_service().clone())
}

/// Has an operator use HTTP, over TLS if `secure`.
fn over_http(operator: Operator, secure: bool) -> Result<Operator, ShipError> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(ANSWER)
        .tcp_user_timeout(ANSWER)
        .redirect(reqwest::redirect::Policy::none());
    if !secure {
        // No certificates are wanted, so a machine that has none will do.
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(|why| {
        let why = causes(&why).last().map(ToString::to_string);
        let why = why.unwrap_or_default();
        ShipError::Setting(format!(
            "cannot use TLS: {why}; the certificates that this machine trusts come with its \
             package ca-certificates"
        ))
    })?;
    let transport = HttpTransporter::new(ReqwestTransport::new(client));
    let context = OperationContext::new().with_http_transport(transport);
    Ok(operator.with_context(context))
}
