//! A farm for unit tests, within the process: FAKE services behind a real gRPC connection over a pipe in
//! memory. The real services are exercised end to end elsewhere.

use farm_client::Endpoints;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::Router;
use tonic::transport::{Endpoint, Uri};

use crate::connect::{Client, bearer};

/// Serves these services and connects to them. A connection that breaks is made anew on the next call.
pub(crate) async fn client(router: Router) -> Client {
    endpoints(router).await.1
}

/// The same, with what it is reached through.
pub(crate) async fn endpoints(router: Router) -> (Endpoints, Client) {
    let (sender, receiver) = mpsc::unbounded_channel::<DuplexStream>();
    let incoming = UnboundedReceiverStream::new(receiver).map(Ok::<_, std::io::Error>);
    tokio::spawn(async move { router.serve_with_incoming(incoming).await });
    let connector = tower::service_fn(move |_: Uri| {
        let (ours, theirs) = tokio::io::duplex(1024 * 1024);
        let sent = sender.send(theirs);
        async move {
            sent.map(|()| TokioIo::new(ours))
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
        }
    });
    let channel = Endpoint::from_static("http://farm.test").connect_with_connector(connector).await.unwrap();
    let bearer = bearer("t0ken", "the test").unwrap_or_else(|e| panic!("{e}"));
    (channel.clone().into(), Client::over(channel, bearer, "http://farm.test"))
}
