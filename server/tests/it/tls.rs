//! Encrypted connections: the same echo, whom the server lets in, and what it says of bad files.

use std::{fs, path::PathBuf, process::Output, sync::Arc, time::Duration};

use arena_echo::{ArenaKind, Config, Echo, Handler, Listener, Reject, Reply, Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
    process::Command,
    time::sleep,
    try_join,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use crate::{
    service::expect_reloads_to_need_a_regular_file,
    support::{
        client::Client,
        gate::{Gate, held},
        http::get,
        in_process::InProcess,
        program::{self, Program},
        run,
        traffic::frame,
        until,
    },
};

/// Nobody is late here, however slow the machine is.
const LONG: Duration = Duration::from_secs(600);

/// Who vouches for servers and peers, and where that is written.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.self_signed(&key).expect("a key that signs");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a new file");
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.vouch_for("server");
        authority.vouch_for("peer");
        authority
    }

    /// Writes a certificate and its key.
    fn vouch_for(&self, name: &str) {
        self.vouch_for_until(name, 4096);
    }

    /// Writes a certificate that is valid until the 17th of May of a year, and its key.
    fn vouch_for_until(&self, name: &str, year: i32) {
        self.vouch_for_between(name, 1975, year);
    }

    /// The same, valid from the 17th of May of another year.
    fn vouch_for_between(&self, name: &str, first: i32, last: i32) {
        let key = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        (params.not_before, params.not_after) =
            (date_time_ymd(first, 5, 17), date_time_ymd(last, 5, 17));
        let certificate = params.signed_by(&key, &self.issuer).expect("a key that signs");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("a new file");
        fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).expect("a new file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flags(&self) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server-key.pem"));
        format!("--tls-cert {} --tls-key {}", cert.display(), key.display())
    }

    fn tls(&self) -> Tls {
        let files = TlsFiles {
            certificates: self.path("server.pem"),
            key: self.path("server-key.pem"),
            client_authorities: None,
        };
        Tls::new(&files).expect("files that belong together")
    }

    /// How a peer connects that trusts this authority, and shows the certificate of `shows`.
    fn connector(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shows: Option<&Self>,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(self.path("ca.pem"))).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions that there are")
            .with_root_certificates(roots);
        let config = match shows {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let key = PrivateKeyDer::from_pem_file(authority.path("peer-key.pem"));
                let certificates = vec![certificate(authority.path("peer.pem"))];
                let config = builder.with_client_auth_cert(certificates, key.expect("a key"));
                config.expect("a key of its own")
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        connect_by(&self.connector(&[&TLS13], None), socket).await
    }

    async fn in_process(&self, config: &Config) -> InProcess {
        self.in_process_with(config, echo_of(config)).await
    }

    async fn in_process_with<H: Handler>(&self, config: &Config, handler: H) -> InProcess<H> {
        let encrypt = |listener| Listener::from(listener).tls(Some(self.tls()));
        InProcess::start_as(config, handler, encrypt).await
    }
}

fn certificate(path: PathBuf) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

fn echo_of(config: &Config) -> Echo {
    match config.reply {
        Reply::Share => Echo::Share,
        Reply::Copy => Echo::Copy,
    }
}

async fn connect_by(
    connector: &TlsConnector,
    socket: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    connector.connect(ServerName::try_from("localhost").expect("a name"), socket).await
}

async fn tcp(address: std::net::SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the server listens")
}

async fn send(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("a connection");
    stream.flush().await.expect("a connection");
}

/// Sends and reads at the same time, and compares.
async fn echo(stream: &mut TlsStream<TcpStream>, frames: &[u8]) {
    let mut received = vec![0; frames.len()];
    let (mut input, mut output) = split(stream);
    let write = async {
        output.write_all(frames).await?;
        output.flush().await
    };
    try_join!(input.read_exact(&mut received), write).expect("all replies");
    assert!(received == frames, "the replies differ");
}

/// One slot for requests and one for replies.
fn two_slots() -> Config {
    Config { capacity_bytes: 2 * (64 << 10), ..Config::fixed() }
}

/// Frames of all kinds: none, a byte, around a record of TLS, larger than a read block.
fn frames() -> Vec<u8> {
    let lengths = [0, 1, 64, 700, 16_379, 16_380, 16_384, 40_000, 65_536, 1 << 20];
    lengths.iter().zip(1..).flat_map(|(length, seed)| frame(*length, seed)).collect()
}

#[test]
fn every_length_is_echoed_by_both_versions_in_both_modes_and_replies() {
    run(async {
        let authority = Authority::new();
        for config in [Config::buddy(), Config { max_frame_bytes: 1 << 20, ..big_slots() }] {
            for reply in [Reply::Share, Reply::Copy] {
                let config = Config { reply, ..config };
                let server = authority.in_process(&config).await;
                for version in [&TLS12, &TLS13] {
                    let connector = authority.connector(&[version], None);
                    let stream = connect_by(&connector, tcp(server.address).await).await;
                    let mut stream = stream.expect("a common version");
                    echo(&mut stream, &frames()).await;
                    echo(&mut stream, &frame(10, 1).repeat(10_000)).await;
                    // A half-close, and its answer: no reply was cut off.
                    stream.shutdown().await.expect("a connection");
                    let end = stream.read(&mut [0; 1]).await.expect("an end that is told");
                    assert_eq!(end, 0);
                }
                assert_eq!(server.all_rejects(), []);
                server.stop().await;
            }
        }
    });
}

fn big_slots() -> Config {
    let arena = ArenaKind::Fixed { slot_bytes: 2 << 20 };
    Config { arena, ..Config::fixed() }
}

#[test]
fn more_peers_than_blocks_all_get_their_echo() {
    run(async {
        let authority = Authority::new();
        let config = Config {
            capacity_bytes: 4 << 20,
            max_frame_bytes: 1 << 20,
            first_byte_timeout: None,
            frame_timeout: LONG,
            write_timeout: LONG,
            memory_timeout: LONG,
            stall_timeout: LONG,
            ..Config::buddy()
        };
        let server = authority.in_process(&config).await;
        let connector = authority.connector(&[&TLS13], None);
        let peers: Vec<_> = (0..60)
            .map(|seed| {
                let (connector, address) = (connector.clone(), server.address);
                tokio::spawn(async move {
                    let stream = connect_by(&connector, tcp(address).await).await;
                    let mut stream = stream.expect("a server with a certificate");
                    echo(&mut stream, &frame(1 << 20, seed).repeat(2)).await;
                })
            })
            .collect();
        for peer in peers {
            peer.await.expect("a peer that is answered");
        }
        server.until_no_memory_is_held().await;
        server.stop().await;
    });
}

/// The beginning of a record may lie where nobody sees it, and so may records behind the first.
#[test]
fn a_frame_that_is_there_is_worth_memory_however_it_is_cut_into_records() {
    run(async {
        let authority = Authority::new();
        let config = Config { frame_timeout: Duration::from_secs(5), ..two_slots() };
        let connector = authority.connector(&[&TLS13], None);
        for (payload_bytes, records) in
            [(4_000, 4), (16_000, 1), (20_000, 1), (20_000, 5), (20_500, 1)]
        {
            let gate = Gate::new();
            let server = authority.in_process_with(&config, gate.clone()).await;
            let connect = async || {
                let stream = connect_by(&connector, tcp(server.address).await).await;
                stream.expect("a server with a certificate")
            };
            let mut holder = connect().await;
            send(&mut holder, &held(100)).await;
            server.until_memory_is_held().await;
            let mut next = connect().await;
            send(&mut next, &frame(100, 2)).await;
            server.until_waiting(1).await;

            let mut cut = connect().await;
            let mut sent = frame(payload_bytes, 3);
            sent[4] = 1;
            for record in sent.chunks(sent.len().div_ceil(records)) {
                send(&mut cut, record).await;
            }
            server.until_waiting(2).await;
            gate.open_for(1);
            let mut reply = vec![0; sent.len()];
            cut.read_exact(&mut reply).await.expect("a reply");
            assert!(reply == sent, "{payload_bytes} bytes in {records} records");
            drop((holder, next, cut));
            server.until_connected(0).await;
            server.stop().await;
        }
    });
}

#[test]
fn half_a_record_is_a_frame_that_has_begun() {
    run(async {
        let authority = Authority::new();
        let frame_timeout = Duration::from_millis(50);
        let config = Config { frame_timeout, idle_timeout: None, ..Config::buddy() };
        let server = authority.in_process(&config).await;
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        echo(&mut stream, &frame(64, 1)).await;
        // The header of a record of 256 bytes, and some of it.
        let (socket, _) = stream.get_mut();
        socket.write_all(&[23, 3, 3, 1, 0, 7, 7]).await.expect("a connection");
        server.until_rejected(Reject::FrameTimeout, 1).await;
        server.stop().await;
    });
}

/// Only a frame that has begun has a deadline to end.
#[test]
fn half_a_record_that_was_no_frame_is_forgotten() {
    run(async {
        let authority = Authority::new();
        // Much longer than the pauses between the parts.
        let frame_timeout = Duration::from_secs(5);
        let config = Config { frame_timeout, ..Config::buddy() };
        let server = authority.in_process(&config).await;
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        echo(&mut stream, &frame(64, 1)).await;
        // A message for rustls itself, in two pieces.
        let (socket, session) = stream.get_mut();
        session.refresh_traffic_keys().expect("an open session");
        let mut record = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut record).expect("memory");
        }
        let (first, rest) = record.split_at(7);
        socket.write_all(first).await.expect("a connection");
        sleep(Duration::from_millis(100)).await;
        socket.write_all(rest).await.expect("a connection");

        sleep(frame_timeout).await;
        let late = frame(1000, 2);
        for part in late.chunks(500) {
            send(&mut stream, part).await;
            sleep(Duration::from_millis(50)).await;
        }
        let mut reply = vec![0; late.len()];
        stream.read_exact(&mut reply).await.expect("a reply");
        assert!(reply == late);
        drop(stream);
        server.until_connected(0).await;
        server.stop().await;
    });
}

#[test]
fn a_handshake_without_end_is_refused() {
    run(async {
        let authority = Authority::new();
        let server = authority.in_process(&Config::buddy()).await;
        let mut client = Client::connect(server.address).await;
        // The beginning of a greeting of 60,000 bytes, in records of 10,000.
        let mut greeting = vec![1, 0, 0xEA, 0x60];
        greeting.resize(50_000, 0);
        for part in greeting.chunks(10_000) {
            client.send(&[22, 3, 1, 0x27, 0x10]).await;
            client.send(part).await;
        }
        server.until_rejected(Reject::Tls, 1).await;
        client.expect_end().await;
        server.stop().await;
    });
}

#[test]
fn an_idle_peer_holds_no_memory_of_the_arena() {
    run(async {
        let authority = Authority::new();
        let server = authority.in_process(&Config::buddy()).await;
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        server.until_connected(1).await;
        assert_eq!(server.bytes_live(), 0, "before the first frame");
        echo(&mut stream, &frames()).await;
        server.until_no_memory_is_held().await;
        server.stop().await;
    });
}

#[test]
fn who_does_not_speak_tls_is_refused_and_hears_why_in_the_log() {
    run(async {
        let authority = Authority::new();
        let mut server = Program::start(&authority.flags()).await;
        let mut client = Client::connect(server.address).await;
        client.send(&frame(64, 1)).await;
        // An alert, and then an end: no reset that would overtake it.
        let mut said = Vec::new();
        client.stream.read_to_end(&mut said).await.expect("an end, not a reset");
        assert_eq!(said.first(), Some(&21), "{said:?} is no alert");
        server.until_logged("closed: no encrypted connection: ").await;
        // Nobody who only looks whether the port is open is worth a warning.
        drop(Client::connect(server.address).await);
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        echo(&mut stream, &frame(64, 1)).await;
        server.stop().await;
    });
}

#[test]
fn only_peers_with_a_certificate_of_the_authority_are_let_in_if_one_is_named() {
    run(async {
        let (authority, other) = (Authority::new(), Authority::new());
        let flags = format!("--tls-client-ca {}", authority.path("ca.pem").display());
        let server = Program::start(&format!("{} {flags}", authority.flags())).await;
        for version in [&TLS12, &TLS13] {
            for (shows, is_let_in) in
                [(Some(&authority), true), (Some(&other), false), (None, false)]
            {
                let connector = authority.connector(&[version], shows);
                let exchanged = async {
                    let mut stream = connect_by(&connector, tcp(server.address).await).await?;
                    stream.write_all(&frame(64, 1)).await?;
                    let mut reply = vec![0; 68];
                    stream.read_exact(&mut reply).await?;
                    io::Result::Ok(reply)
                };
                match exchanged.await {
                    Ok(reply) => assert!(is_let_in && reply == frame(64, 1)),
                    Err(error) => {
                        assert!(!is_let_in, "{error}");
                        // What the server said, not that the connection broke.
                        assert!(error.to_string().contains("fatal alert"), "{error}");
                    }
                }
            }
        }
        server.stop().await;
    });
}

#[test]
fn a_hangup_takes_new_files_over_for_new_connections() {
    run(async {
        let (authority, next) = (Authority::new(), Authority::new());
        next.vouch_for_until("server", 2031);
        let mut server = Program::start(&authority.flags()).await;
        let mut early = authority.connect(tcp(server.address).await).await.expect("a server");

        // A key without its certificate changes nothing.
        fs::copy(next.path("server-key.pem"), authority.path("server-key.pem")).expect("a file");
        server.signal(Signal::HUP);
        server.until_logged("is not the key of the first certificate").await;
        server.until_logged("reload: nothing has changed").await;
        let old = authority.connect(tcp(server.address).await).await;
        echo(&mut old.expect("the old certificate"), &frame(64, 2)).await;

        fs::copy(next.path("server.pem"), authority.path("server.pem")).expect("a file");
        server.signal(Signal::HUP);
        let line = server.until_logged("server.pem: the certificate is valid until ").await;
        assert!(line.ends_with(" 2031-05-17T00:00:00Z"), "{line}");
        server.until_logged("reload: done").await;
        let new = next.connect(tcp(server.address).await).await;
        echo(&mut new.expect("the new certificate"), &frame(64, 3)).await;
        let stale = authority.connect(tcp(server.address).await).await;
        assert!(stale.is_err(), "the old certificate was shown");
        echo(&mut early, &frame(64, 4)).await;
        server.stop().await;
    });
}

#[test]
fn a_hangup_reads_no_certificate_and_no_key_but_from_regular_files() {
    run(async {
        let authority = Authority::new();
        let flags = format!("--tls-client-ca {}", authority.path("ca.pem").display());
        let mut server = Program::start(&format!("{flags} {}", authority.flags())).await;
        for name in ["ca.pem", "server.pem", "server-key.pem"] {
            expect_reloads_to_need_a_regular_file(&mut server, &authority.path(name)).await;
        }
        let connector = authority.connector(&[&TLS13], Some(&authority));
        let stream = connect_by(&connector, tcp(server.address).await).await;
        echo(&mut stream.expect("a certificate that is vouched for"), &frame(64, 1)).await;
        server.stop().await;
    });
}

/// 17 May 1999.
const LONG_AGO_SECONDS: u64 = 926_899_200;

#[test]
fn operators_see_until_when_the_certificate_is_valid() {
    run(async {
        let authority = Authority::new();
        authority.vouch_for_until("server", 1999);
        let flags = format!("--admin 127.0.0.1:0 {}", authority.flags());
        let mut server = Program::start(&flags).await;
        let admin = server.admin().await;
        let page = get(admin, "/metrics").await.body;
        let wanted = format!("\necho_tls_valid_until_seconds {LONG_AGO_SECONDS}\n");
        assert!(page.contains(&wanted), "{page}");
        server.until_logged("the certificate has expired, 1999-05-17T00:00:00Z").await;

        // A self-signed one, which vouches for others as well.
        fs::copy(authority.path("ca.pem"), authority.path("server.pem")).expect("a file");
        let key = authority.issuer.key().serialize_pem();
        fs::write(authority.path("server-key.pem"), key).expect("a file");
        server.signal(Signal::HUP);
        server.until_logged("the certificate is valid until 4096-01-01T00:00:00Z").await;
        server.stop().await;
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_warned_of() {
    run(async {
        let authority = Authority::new();
        authority.vouch_for_between("server", 4000, 4096);
        let mut server = Program::start(&authority.flags()).await;
        let said = "WARN {PATH}: the certificate is valid only from 4000-05-17T00:00:00Z until \
                    4096-05-17T00:00:00Z";
        let path = authority.path("server.pem").display().to_string();
        server.until_logged(&said.replace("{PATH}", &path)).await;
        assert_eq!(authority.tls().valid_from(), Some(date_time_ymd(4000, 5, 17).into()));

        authority.vouch_for("server");
        server.signal(Signal::HUP);
        server.until_logged("the certificate is valid until 4096-05-17T00:00:00Z").await;
        server.stop().await;
    });
}

#[test]
fn turning_tls_off_waits_for_a_restart() {
    run(async {
        let authority = Authority::new();
        let file = authority.path("echo.toml");
        let (cert, key) = (authority.path("server.pem"), authority.path("server-key.pem"));
        fs::write(&file, format!("tls-cert = {cert:?}\ntls-key = {key:?}\n")).expect("a file");
        let mut server = Program::start(&format!("--config {}", file.display())).await;
        fs::write(&file, "").expect("a file");
        server.signal(Signal::HUP);
        server.until_logged("tls-key from ").await;
        let stream = authority.connect(tcp(server.address).await).await;
        echo(&mut stream.expect("still a certificate"), &frame(64, 1)).await;
        server.stop().await;
    });
}

async fn refused(flags: &str) -> String {
    let mut command = Command::new(program::PATH);
    let command = command.args(flags.split_whitespace()).kill_on_drop(true);
    let Output { status, stderr, .. } = command.output().await.expect("the program starts");
    assert_eq!(status.code(), Some(2));
    String::from_utf8(stderr).expect("text")
}

#[test]
fn everything_wrong_with_the_files_is_said_at_once() {
    run(async {
        let (authority, other) = (Authority::new(), Authority::new());
        let [server, key, ca] = ["server.pem", "server-key.pem", "ca.pem"]
            .map(|name| authority.path(name).display().to_string());

        let said = refused(&format!("--tls-cert {server}")).await;
        assert_eq!(
            said,
            format!("error: --tls-cert '{server}': needs --tls-key with its private key\n")
        );
        let said = refused("--tls-cert /nowhere/server.pem").await;
        let label = "error: --tls-cert '/nowhere/server.pem': ";
        let lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(label)).collect();
        assert_eq!(lines[0], "needs --tls-key with its private key");
        assert!(lines[1].starts_with("cannot read this file: "), "{said}");
        let said = refused(&format!("--tls-key {key}")).await;
        assert!(said.contains("needs --tls-cert with its certificate"), "{said}");
        let said = refused(&format!("--tls-client-ca {ca}")).await;
        assert!(said.contains("needs --tls-cert and --tls-key"), "{said}");

        // No certificate in it, nothing there at all, and not even PEM.
        let garbage = authority.path("garbage.pem");
        fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
            .expect("a file");
        let garbage = garbage.display();
        let wrong = format!("--tls-cert {key} --tls-key /none.pem --tls-client-ca {garbage}");
        let said = refused(&wrong).await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[0].contains(&format!("--tls-cert '{key}': holds no certificate")), "{said}");
        assert!(lines[1].contains("--tls-key '/none.pem': cannot read this file: "), "{said}");
        assert!(lines[2].contains("--tls-client-ca") && lines[2].contains("broken PEM"), "{said}");

        let key = other.path("server-key.pem").display().to_string();
        let said = refused(&format!("--tls-cert {server} --tls-key {key}")).await;
        let reason = format!("is not the key of the first certificate in {server}");
        assert_eq!(said, format!("error: --tls-key '{key}': {reason}\n"));
    });
}

/// An X25519 key: whole, and not for signatures.
const EXCHANGE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH
-----END PRIVATE KEY-----
";

/// What there was of an encrypted key before PKCS #8.
const OLD_ENCRYPTED_KEY: &str = "-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,E46474F8445109698FD1D7B2B75F43A6

BwcHBwcHBwcHBwcHBwcHBw==
-----END RSA PRIVATE KEY-----
";

#[test]
fn a_key_that_cannot_be_used_is_refused_with_what_to_do() {
    run(async {
        let authority = Authority::new();
        let path = authority.path("server-key.pem").display().to_string();
        let refusal = async |key: &str| {
            fs::write(&path, key).expect("a file");
            refused(&format!("config {}", authority.flags())).await
        };
        let label = format!("error: --tls-key '{path}': ");
        let expected = format!(
            "{label}is encrypted, and nobody is asked for its passphrase; decrypt it by `openssl \
             pkey -in {path} -out {path}.plain`, and use that file\n"
        );
        let encrypted = EXCHANGE_KEY.replace(" PRIVATE KEY", " ENCRYPTED PRIVATE KEY");
        assert_eq!(refusal(&encrypted).await, expected);
        assert_eq!(refusal(OLD_ENCRYPTED_KEY).await, expected);

        let expected = format!(
            "{label}is no key that can be used; make one of these: ECDSA on P-256 or P-384, \
             Ed25519, or RSA of 2048 to 4096 bits\n"
        );
        assert_eq!(refusal(EXCHANGE_KEY).await, expected);
    });
}

#[test]
fn what_had_arrived_when_the_server_stops_is_answered() {
    run(async {
        let authority = Authority::new();
        let config = Config { drain_timeout: Duration::from_secs(3600), ..two_slots() };
        let gate = Gate::new();
        let server = authority.in_process_with(&config, gate.clone()).await;
        let mut holder = authority.connect(tcp(server.address).await).await.expect("a server");
        send(&mut holder, &held(100)).await;
        server.until_memory_is_held().await;

        // More than a slot, which ends in the middle of the last record.
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        let sent = frame(999, 2).repeat(75);
        for part in [&sent[..10_000], &sent[10_000..]] {
            send(&mut stream, part).await;
        }
        server.until_waiting(1).await;
        let mut silent = Client::connect(server.address).await;
        server.until_connected(3).await;
        server.begin_to_stop();
        // Then everybody knows.
        silent.expect_end().await;
        gate.open_for(1);

        let mut received = Vec::new();
        // Until an end that is told: no `UnexpectedEof`.
        stream.read_to_end(&mut received).await.expect("an end that is told");
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        drop((holder, stream, silent));
        server.stop().await;
    });
}

#[test]
fn a_drain_does_not_wait_for_a_handshake() {
    run(async {
        let authority = Authority::new();
        let server = authority.in_process(&Config::buddy()).await;
        let mut silent = Client::connect(server.address).await;
        let mut half = Client::connect(server.address).await;
        half.send(&[22, 3, 1, 0]).await;
        server.until_connected(2).await;
        server.stop().await;
        silent.expect_end().await;
        half.expect_end().await;

        // One that waits to be accepted.
        let hour = Some(Duration::from_secs(3600));
        let config = Config { max_connections: 1, first_byte_timeout: hour, ..Config::buddy() };
        let config = Config { drain_timeout: Duration::from_secs(3600), ..config };
        let server = authority.in_process(&config).await;
        let mut idle = authority.connect(tcp(server.address).await).await.expect("a server");
        echo(&mut idle, &frame(64, 1)).await;
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&[22, 3, 1, 0]).await;
        server.stop().await;
        waiting.expect_end().await;
    });
}

#[test]
fn a_handshake_that_does_not_end_is_over_at_the_deadline_of_the_first_byte() {
    run(async {
        let authority = Authority::new();
        let first_byte_timeout = Some(Duration::from_millis(50));
        let config = Config { first_byte_timeout, ..Config::buddy() };
        let server = authority.in_process(&config).await;
        let mut half = Client::connect(server.address).await;
        half.send(&[22, 3, 1, 0]).await;
        server.until_rejected(Reject::FirstByteTimeout, 1).await;
        half.expect_end().await;
        server.stop().await;
    });
}

#[test]
fn an_end_that_is_not_told_is_one_between_frames_and_an_error_within() {
    run(async {
        let authority = Authority::new();
        let server = authority.in_process(&Config::buddy()).await;
        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        echo(&mut stream, &frame(64, 1)).await;
        drop(stream);
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), []);

        let mut stream = authority.connect(tcp(server.address).await).await.expect("a server");
        // What the server says first is read, so that the end is no reset.
        echo(&mut stream, &frame(64, 1)).await;
        send(&mut stream, &frame(64, 1)[..30]).await;
        drop(stream);
        server.until_rejected(Reject::UnexpectedEnd, 1).await;
        server.stop().await;
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_others_go_on() {
    run(async {
        let authority = Authority::new();
        let config = Config {
            capacity_bytes: 4 << 20,
            write_timeout: Duration::from_millis(200),
            ..Config::buddy()
        };
        let server = authority.in_process(&config).await;
        let deaf = authority.connect(tcp(server.address).await).await.expect("a server");
        let (_input, mut output) = split(deaf);
        let flood = tokio::spawn(async move {
            let frames = frame(60_000, 1).repeat(8);
            while output.write_all(&frames).await.is_ok() {}
        });
        let mut honest = authority.connect(tcp(server.address).await).await.expect("a server");
        until(|| server.metrics().bytes_out > 0).await;
        let lost = || server.rejects(Reject::WriteTimeout) + server.rejects(Reject::Stalled);
        while lost() == 0 {
            echo(&mut honest, &frame(60_000, 2)).await;
        }
        flood.await.expect("a flood that ends");
        drop(honest);
        server.until_connected(0).await;
        server.stop().await;
    });
}
