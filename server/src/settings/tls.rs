//! The files with which connections are encrypted: which, and what is in them.

use std::path::PathBuf;

use super::values::{self, Reader};
use crate::files::ReadFile;

#[cfg(feature = "tls")]
pub(crate) use self::with_tls::Encryption;
#[cfg(not(feature = "tls"))]
pub(crate) use self::without_tls::Encryption;

/// Where the files lie.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TlsPaths {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
}

impl TlsPaths {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut path = |name| reader.read(name, values::or_off(values::path)).unwrap_or_default();
        Self { cert: path("tls-cert"), key: path("tls-key"), client_ca: path("tls-client-ca") }
    }

    /// Loads the files, if connections are to be encrypted and all that is needed is named.
    pub(crate) fn load(&self, reader: &mut Reader<'_>, read: ReadFile<'_>) -> Option<Encryption> {
        match self {
            Self { cert: Some(cert), key: Some(key), client_ca } => {
                Encryption::load(cert, key, client_ca.as_deref(), reader, read)
            }
            Self { cert, key, client_ca } => {
                let unreadable = &reader.unreadable;
                let is_unknown = unreadable.contains("tls-cert") || unreadable.contains("tls-key");
                if is_unknown {
                    return None;
                }
                if cert.is_some() {
                    reader.refuse_written("tls-cert", "needs --tls-key with its private key");
                }
                if key.is_some() {
                    reader.refuse_written("tls-key", "needs --tls-cert with its certificate");
                }
                if client_ca.is_some() && cert.is_none() && key.is_none() {
                    let reason = "needs --tls-cert and --tls-key: who asks peers for a certificate \
                                  must show one";
                    reader.refuse_written("tls-client-ca", reason);
                }
                let paths = [("tls-cert", cert), ("tls-key", key), ("tls-client-ca", client_ca)];
                for (name, path) in paths {
                    if let Some(Err(error)) = path.as_deref().map(read) {
                        let reason = format_args!("cannot read this file: {error}");
                        reader.refuse_written(name, reason);
                    }
                }
                None
            }
        }
    }
}

#[cfg(feature = "tls")]
mod with_tls {
    use std::{path::Path, time::SystemTime};

    use arena_echo::{Admin, Listener, Tls, TlsFile, TlsFiles};

    use super::{ReadFile, Reader};

    /// What connections are encrypted with.
    #[derive(Clone, Debug)]
    pub(crate) struct Encryption(Tls);

    impl Encryption {
        pub(super) fn load(
            certificates: &Path,
            key: &Path,
            client_authorities: Option<&Path>,
            reader: &mut Reader<'_>,
            read: ReadFile<'_>,
        ) -> Option<Self> {
            let files = TlsFiles {
                certificates: certificates.to_owned(),
                key: key.to_owned(),
                client_authorities: client_authorities.map(Path::to_owned),
            };
            let loaded = Tls::read_by(&files, read);
            for problem in loaded.as_ref().err().map_or(&[][..], |error| error.problems()) {
                let name = match problem.file() {
                    TlsFile::Certificates => "tls-cert",
                    TlsFile::Key => "tls-key",
                    TlsFile::ClientAuthorities => "tls-client-ca",
                };
                reader.refuse_written(name, problem.reason());
            }
            loaded.ok().map(Self)
        }

        pub(crate) fn wrap(&self, listener: Listener) -> Listener {
            listener.tls(Some(self.0.clone()))
        }

        pub(crate) fn replace(&self, with: &Self) {
            self.0.replace(&with.0);
        }

        /// Since when its certificate is valid, if that is known.
        pub(crate) fn valid_from(&self) -> Option<SystemTime> {
            self.0.valid_from()
        }

        /// Until when its certificate is valid, if that is known.
        pub(crate) fn valid_until(&self) -> Option<SystemTime> {
            self.0.valid_until()
        }

        /// Has `admin` show that.
        pub(crate) fn show(&self, admin: Admin) -> Admin {
            admin.tls(Some(self.0.clone()))
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without_tls {
    use std::{path::Path, time::SystemTime};

    use arena_echo::{Admin, Listener};

    use super::{ReadFile, Reader};

    /// There is none in this build.
    #[derive(Clone, Debug)]
    pub(crate) enum Encryption {}

    impl Encryption {
        pub(super) fn load(
            _: &Path,
            _: &Path,
            _: Option<&Path>,
            reader: &mut Reader<'_>,
            _: ReadFile<'_>,
        ) -> Option<Self> {
            let reason = "this program was built without TLS; build it with the feature tls";
            reader.refuse_written("tls-cert", reason);
            None
        }

        pub(crate) fn wrap(&self, _: Listener) -> Listener {
            match *self {}
        }

        pub(crate) fn replace(&self, _: &Self) {
            match *self {}
        }

        pub(crate) fn valid_from(&self) -> Option<SystemTime> {
            match *self {}
        }

        pub(crate) fn valid_until(&self) -> Option<SystemTime> {
            match *self {}
        }

        pub(crate) fn show(&self, _: Admin) -> Admin {
            match *self {}
        }
    }
}
