//! Why a dump is not where it should be: told apart by what a person has to do about it.

use std::error::Error as StdError;
use std::io;

use kdraw::exit;
use suppaftp::{FtpError, Status};

/// Letters of a server's answer that are shown.
const SHOWN: usize = 200;

/// Why something was not shipped. The dump here is as it was, each time.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// Nobody answers.
    #[error(
        "cannot reach {place}: {why}; nothing here was changed, and `kdraw ship` goes on later"
    )]
    Unreachable {
        /// Where.
        place: String,
        /// What was found.
        why: String,
    },
    /// The place does not let us in, or not write.
    #[error(
        "{place} refuses: {why}; check the user, the password or key, and the right to write there"
    )]
    Refused {
        /// Where.
        place: String,
        /// What it said.
        why: String,
    },
    /// The place answers, and takes no more bytes.
    #[error(
        "{place} has no room: it took {taken} of the {len} bytes of {file}: {why}; make room there, or \
         raise its limit for one file"
    )]
    Full {
        /// Where.
        place: String,
        /// Which file.
        file: String,
        /// Bytes of it that are there.
        taken: u64,
        /// Bytes that it has.
        len: u64,
        /// What it said.
        why: String,
    },
    /// What is there is not what was sent, again and again.
    #[error("{place} gives other bytes of {file} back than it was given, {times} times")]
    Differs {
        /// Where.
        place: String,
        /// Which file.
        file: String,
        /// How often it was sent.
        times: u32,
    },
    /// Anything else at the other end or on the way.
    #[error("{place}: {why}")]
    Other {
        /// Where.
        place: String,
        /// What was found.
        why: String,
    },
    /// The URL or the credentials are not what they should be.
    #[error("{0}")]
    Setting(String),
    /// Something here.
    #[error(transparent)]
    Local(#[from] kdraw::error::Error),
}

impl ShipError {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Refused { .. } => exit::REFUSED,
            Self::Full { .. } => exit::FULL,
            Self::Differs { .. } => 1,
            Self::Other { .. } | Self::Setting(_) | Self::Local(_) => exit::TROUBLE,
        }
    }

    /// The same in a word, for JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Full { .. } => "full",
            Self::Differs { .. } => "differs",
            Self::Other { .. } | Self::Setting(_) | Self::Local(_) => "trouble",
        }
    }
}

/// What an error at the other end means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nobody answers: perhaps later.
    Unreachable,
    /// Asking again is in vain.
    Refused,
    /// It said itself that there is no room.
    Full,
    /// It will be the same again.
    Lasting,
    /// A broken connection, or an answer that may mean anything.
    Passing,
}

/// Tells what an error means.
pub fn classify(error: &opendal::Error) -> Class {
    if let Some(class) = http_status(error).and_then(of_http) {
        return class;
    }
    let known = causes(error).find_map(|cause| {
        if let Some(ftp) = cause.downcast_ref::<FtpError>() {
            return of_ftp(ftp);
        }
        if let Some(http) = cause.downcast_ref::<reqwest::Error>() {
            // A certificate that is not trusted, for example.
            if causes(error).any(is_tls) {
                return Some(Class::Lasting);
            }
            return (http.is_connect() || http.is_timeout()).then_some(Class::Unreachable);
        }
        cause.downcast_ref::<io::Error>().and_then(of_io)
    });
    match (error.kind(), error.message()) {
        // What `ssh` said before there was a session.
        (_, "ssh error") => match known {
            _ if reason(error).contains("Host key verification failed") => Class::Refused,
            Some(Class::Refused) => Class::Refused,
            Some(Class::Lasting) => Class::Lasting,
            _ => Class::Unreachable,
        },
        (opendal::ErrorKind::PermissionDenied, _) => Class::Refused,
        (opendal::ErrorKind::ConfigInvalid | opendal::ErrorKind::Unsupported, _) => Class::Lasting,
        (_, "connection request: timeout") => Class::Unreachable,
        _ => known.unwrap_or(Class::Passing),
    }
}

/// What went wrong, in one line, as near to its origin as it was told.
pub fn reason(error: &opendal::Error) -> String {
    let text = match (http_status(error), error.source()) {
        (Some(status), _) => format!("HTTP status {status} {}", plain(error.message())),
        (None, None) => error.message().to_owned(),
        (None, Some(_)) => causes(error)
            .last()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SHOWN).collect()
}

/// An error and what it comes from, the origin last.
pub fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// A page or an XML document without its tags.
fn plain(page: &str) -> String {
    let mut inside = false;
    page.chars()
        .filter_map(|letter| {
            inside = (inside || letter == '<') && letter != '>';
            match (inside, letter) {
                (true, _) => None,
                (false, '>') => Some(' '),
                (false, letter) => Some(letter),
            }
        })
        .collect()
}

/// The status of the response that the error is about; OpenDAL has it in the text only.
fn http_status(error: &opendal::Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("response: Parts { status: ")?;
    rest.get(..3)?.parse().ok()
}

fn of_http(status: u16) -> Option<Class> {
    match status {
        401 | 403 | 407 => Some(Class::Refused),
        413 | 507 => Some(Class::Full),
        // From a proxy, or a server that is being started.
        502..=504 => Some(Class::Unreachable),
        _ => None,
    }
}

/// RFC 959, section 4.2.
fn of_ftp(error: &FtpError) -> Option<Class> {
    match error {
        FtpError::ConnectionError(error) => of_io(error),
        FtpError::SecureError(_) | FtpError::InvalidAddress(_) => Some(Class::Lasting),
        FtpError::UnexpectedResponse(response) => match response.status {
            Status::NotLoggedIn
            | Status::InvalidCredentials
            | Status::StoringNeedAccount
            | Status::FileUnavailable
            | Status::BadFilename => Some(Class::Refused),
            Status::RequestedActionNotTaken | Status::ExceededStorage => Some(Class::Full),
            Status::NotAvailable => Some(Class::Unreachable),
            _ => None,
        },
        _ => None,
    }
}

fn of_io(error: &io::Error) -> Option<Class> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::AddrNotAvailable
        | Kind::TimedOut => Some(Class::Unreachable),
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Some(Class::Refused),
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Some(Class::Full),
        // There is no program `ssh`.
        Kind::NotFound => Some(Class::Lasting),
        // getaddrinfo's errors have no kind (std, `cvt_gai`).
        _ if error.to_string().contains("failed to lookup address") => Some(Class::Unreachable),
        _ => None,
    }
}

/// Whether TLS is to blame; it hides in I/O errors, one within the other.
fn is_tls(cause: &(dyn StdError + 'static)) -> bool {
    let inner = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opendal::{Error, ErrorKind};

    fn with(message: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        let source: Box<dyn StdError + Send + Sync> = source.into();
        Error::new(ErrorKind::Unexpected, message).set_source(io::Error::other(source))
    }

    fn answer(status: &str, body: &str) -> Error {
        Error::new(ErrorKind::Unexpected, body).with_context(
            "response",
            format!("Parts {{ status: {status}, version: HTTP/1.1 }}"),
        )
    }

    #[test]
    fn what_to_do_about_an_error_is_known() {
        let io = |kind| Error::new(ErrorKind::Unexpected, "x").set_source(io::Error::from(kind));
        let ftp = |status| {
            let response = suppaftp::types::Response::new(status, b"said".to_vec());
            Error::new(ErrorKind::Unexpected, "ftp error")
                .set_source(FtpError::UnexpectedResponse(response))
        };
        let ssh = |kind, text: &str| {
            Error::new(ErrorKind::Unexpected, "ssh error")
                .set_source(io::Error::new(kind, text.to_owned()))
        };
        for (error, class) in [
            (io(io::ErrorKind::ConnectionRefused), Class::Unreachable),
            (io(io::ErrorKind::StorageFull), Class::Full),
            (io(io::ErrorKind::PermissionDenied), Class::Refused),
            (io(io::ErrorKind::BrokenPipe), Class::Passing),
            (ftp(Status::NotLoggedIn), Class::Refused),
            (ftp(Status::ExceededStorage), Class::Full),
            (ftp(Status::ActionAborted), Class::Passing),
            (answer("401", "<html>no</html>"), Class::Refused),
            (answer("507", ""), Class::Full),
            (answer("500", ""), Class::Passing),
            (answer("503", ""), Class::Unreachable),
            (
                ssh(
                    io::ErrorKind::PermissionDenied,
                    "Permission denied (publickey).",
                ),
                Class::Refused,
            ),
            (
                ssh(
                    io::ErrorKind::ConnectionAborted,
                    "Host key verification failed.",
                ),
                Class::Refused,
            ),
            (
                ssh(
                    io::ErrorKind::ConnectionAborted,
                    "Connection closed by 192.0.2.1",
                ),
                Class::Unreachable,
            ),
            (ssh(io::ErrorKind::NotFound, "ssh"), Class::Lasting),
            (with("send", "nothing known"), Class::Passing),
            (
                with(
                    "send",
                    "failed to lookup address information: Name or service not known",
                ),
                Class::Unreachable,
            ),
        ] {
            assert_eq!(classify(&error), class, "{error}");
        }
    }

    #[test]
    fn tls_is_found_within_other_errors() {
        let tls = rustls::Error::General("no trust".into());
        let within = io::Error::other(io::Error::other(tls));
        assert!(is_tls(&within));
        assert!(!is_tls(&io::Error::other("no trust")));
    }

    #[test]
    fn a_reason_is_one_readable_line() {
        let page = answer("403", "<html>\r\n<b>Forbidden</b>\r\n</html>");
        assert_eq!(reason(&page), "HTTP status 403 Forbidden");
        assert_eq!(reason(&with("send", "in the end this")), "in the end this");
        assert_eq!(reason(&answer("500", &"x".repeat(999))).len(), SHOWN);
    }
}
