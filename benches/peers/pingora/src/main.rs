//! A small proxy on Pingora: the path, hashed by ketama, chooses the backend. Cleartext HTTP/1.1 and HTTP/2.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::lb::LoadBalancer;
use pingora::lb::selection::consistent::KetamaHashing;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::{Error, ErrorType};

/// Connections kept to all backends together.
const IDLE_MAX: usize = 384;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

struct Ketama(Arc<LoadBalancer<KetamaHashing>>);

#[async_trait]
impl ProxyHttp for Ketama {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        let key = session.req_header().uri.path().as_bytes();
        let backend = self.0.select(key, 3).ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        let mut peer = HttpPeer::new(backend, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(READ_TIMEOUT);
        peer.options.write_timeout = Some(READ_TIMEOUT);
        peer.options.idle_timeout = Some(IDLE_TIMEOUT);
        Ok(Box::new(peer))
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backends @ ..] = words.as_slice() else {
        eprintln!("usage: bench-pingora LISTEN BACKEND...");
        return ExitCode::from(2);
    };
    let balancer = match LoadBalancer::<KetamaHashing>::try_from_iter(backends) {
        Ok(balancer) => balancer,
        Err(error) => {
            eprintln!("bench-pingora: {backends:?}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: IDLE_MAX,
        // By default it waits for minutes after SIGTERM.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Ketama(Arc::new(balancer)));
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    if let Some(logic) = service.app_logic_mut() {
        logic.server_options = Some(options);
    }
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
