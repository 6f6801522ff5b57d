//! Why a server cannot be talked to, in one line that says what to change.

use std::{
    io::{self, ErrorKind},
    time::{Duration, SystemTime},
};

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use super::sessions::Sessions;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    /// The server has said nothing that is TLS.
    Hello,
    Handshake,
    /// The handshake is over for this side, and the server has said nothing since.
    Unproven,
    Open,
}

const IS_PLAIN: &str = "if the server does not speak TLS, leave out --tls";

/// What an error of the socket means.
pub(super) fn of_socket(error: &io::Error, moment: Moment, sessions: &Sessions) -> String {
    let is_closed = matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    );
    let closed = match error.kind() {
        ErrorKind::UnexpectedEof => "the server closed the connection",
        _ => "the server reset the connection",
    };
    match (moment, error.kind()) {
        (Moment::Hello, ErrorKind::TimedOut) => format!("the server does not answer; {IS_PLAIN}"),
        (Moment::Hello, _) if is_closed => format!("{closed} instead of answering; {IS_PLAIN}"),
        (Moment::Handshake, ErrorKind::TimedOut) => "the server does not go on".to_owned(),
        (Moment::Handshake | Moment::Unproven, _) if is_closed && is_unknown(sessions) => {
            format!("{closed}; {}", show_one())
        }
        (Moment::Handshake, _) if is_closed => format!("{closed} in the middle of it"),
        (_, ErrorKind::UnexpectedEof) => format!("{closed} without close_notify"),
        _ => error.to_string(),
    }
}

/// What an error of the session means.
pub(super) fn of_session(error: &Error, moment: Moment, sessions: &Sessions) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error, sessions),
        Error::AlertReceived(alert) => of_alert(*alert, moment, sessions),
        Error::PeerIncompatible(why) => format!("{NOTHING_COMMON} ({why:?})"),
        _ if moment == Moment::Hello => {
            format!("what the server answers is no TLS ({error}); {IS_PLAIN}")
        }
        _ => format!("the server breaks the rules of TLS: {error}"),
    }
}

const NOTHING_COMMON: &str = "the server has no version or cipher suite in common with loadgen, \
                              which speaks TLS 1.3 and 1.2";

fn of_certificate(error: &CertificateError, sessions: &Sessions) -> String {
    let anyhow = "--tls-insecure accepts it as it is";
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the certificate of the server expired on {}; renew it ({anyhow})",
            date(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of the server is valid from {} on; check the clocks of both machines",
            date(*not_before)
        ),
        // What has a time with it is above: this is an end before the beginning.
        CertificateError::Expired => format!(
            "the certificate of the server expires before it begins to be valid; make another one \
             ({anyhow})"
        ),
        // Another authority of the same name makes a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of the server is from an authority that is not trusted here; name its \
             file with --tls-ca ({anyhow})"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the certificate of the server is for {}, not for {}; say which name is right with \
             --tls-name",
            names(presented),
            sessions.name()
        ),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the certificate of the server is one of an authority (CA:TRUE), which may not \
                 stand for a server; make one with basicConstraints=CA:FALSE ({anyhow})"
            )
        }
        error => format!("the certificate of the server cannot be trusted: {error} ({anyhow})"),
    }
}

fn of_alert(alert: AlertDescription, moment: Moment, sessions: &Sessions) -> String {
    let name = alert.as_str().map_or_else(|| format!("{alert:?}"), str::to_owned);
    let is_early = moment != Moment::Open;
    match alert {
        AlertDescription::CertificateRequired => show_one(),
        _ if is_early && is_unknown(sessions) => format!("{} (alert {name})", show_one()),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
            if is_early && sessions.was_asked() =>
        {
            let why = match alert {
                AlertDescription::CertificateExpired => "has expired",
                AlertDescription::CertificateRevoked => "is revoked",
                AlertDescription::UnknownCA => "is from an authority that it does not trust",
                _ => "is not one that it accepts",
            };
            format!(
                "the server refuses the certificate of --tls-cert, which {why} (alert {name}); \
                 give another one"
            )
        }
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
            if is_early =>
        {
            format!("{NOTHING_COMMON} (alert {name})")
        }
        AlertDescription::UnrecognisedName => format!(
            "the server does not know the name {} (alert {name}); give another one with --tls-name",
            sessions.name()
        ),
        _ => format!("the server ended the session (alert {name})"),
    }
}

/// Whether the server has asked who this is, and was not told.
fn is_unknown(sessions: &Sessions) -> bool {
    sessions.was_asked() && !sessions.has_certificate()
}

fn show_one() -> String {
    "the server asks for a certificate of its client; give one with --tls-cert and --tls-key"
        .to_owned()
}

/// The names of a certificate in words. They come as `DnsName("localhost")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name at all (it has no subjectAltName)".to_owned(),
        some => some.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    let time = time.map(|time| humantime::format_rfc3339_seconds(time).to_string());
    time.unwrap_or_default().replace('T', " ").replace('Z', " UTC")
}
