//! `amqps` against a broker with certificates that are made here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use busway_test_broker::Broker;
use busway_transport::TransportError;

use crate::bench::{blocking, fresh, run_alone, try_connect};

const SOON: Duration = Duration::from_secs(20);

/// A folder with a certificate authority, a server's certificate for `localhost` and a client's.
struct Certificates(PathBuf);

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Certificates {
    fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("busway-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = Self(folder);
        made.authority("ca");
        made.authority("stranger");
        made.signed("server", "DNS:localhost");
        made.signed("client", "DNS:client");
        made
    }

    fn authority(&self, name: &str) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &pem,
        ]);
    }

    fn signed(&self, name: &str, alternative: &str) {
        let file = |ending: &str| format!("{name}.{ending}");
        std::fs::write(self.0.join(file("ext")), format!("subjectAltName={alternative}\n"))
            .unwrap();
        self.openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &file("key"),
            "-out",
            &file("csr"),
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &file("ext"),
            "-out",
            &file("pem"),
        ]);
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.0).output();
        let output = output.expect("these tests need openssl: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

/// Opens a TLS port that asks for a client's certificate.
fn listen(broker: &Broker, certificates: &Path) -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let folder = certificates.display();
    let listening = format!(
        "rabbit_networking:ensure_ssl(), \
         ok = rabbit_networking:start_ssl_listener({port}, [\
            {{cacertfile, \"{folder}/ca.pem\"}}, {{certfile, \"{folder}/server.pem\"}}, \
            {{keyfile, \"{folder}/server.key\"}}, {{verify, verify_peer}}, \
            {{fail_if_no_peer_cert, true}}], 1)."
    );
    broker.ctl(&["eval", &listening]).expect("listens");
    port
}

#[test]
fn certificates_are_checked_on_both_sides() {
    run_alone(async |broker| {
        let (certificates, port) = blocking(|| {
            let certificates = Certificates::make();
            let port = listen(broker, &certificates.0);
            (certificates, port)
        })
        .await;
        let url = |host: &str, ca: &str, more: &str| {
            let ca = certificates.path(ca);
            format!("amqps://guest:guest@{host}:{port}/%2f?bus={}&ca={ca}{more}", fresh())
        };
        let identity = format!(
            "&cert={}&key={}",
            certificates.path("client.pem"),
            certificates.path("client.key")
        );
        let bus = try_connect(&url("localhost", "ca.pem", &identity), SOON).await.expect("trusted");
        let id = bus.publish("x.y", "1").await;
        assert!(!id.to_string().is_empty());
        let shown = format!("{:?}", bus.transport);
        assert!(!shown.contains("PRIVATE"), "{shown}");
        bus.close().await;

        for (url, what) in [
            (url("127.0.0.1", "ca.pem", &identity), "the certificate is for another host"),
            (url("localhost", "stranger.pem", &identity), "nobody trusts who signed it"),
            (url("localhost", "ca.pem", ""), "the broker wants to know who we are"),
        ] {
            let error = try_connect(&url, SOON).await.map(|_| ()).expect_err(what);
            assert!(matches!(error, TransportError::Unreachable { .. }), "{what}: {error:?}");
        }
    });
}
