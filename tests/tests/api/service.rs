//! As services of a service manager that waits for them: systemd's notification protocol, on a socket of the test's own.
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc;
use std::time::Duration;

use farm_tests::database::Database;
use farm_tests::farm::{Farm, WorkerSpec};

const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// What arrived next.
fn told(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(TOLD_WITHIN)).unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// What arrives, read at once as a service manager does: the kernel holds ten messages, and a start sends more.
fn heard(socket: UnixDatagram) -> mpsc::Receiver<String> {
    let (heard, hears) = mpsc::channel();
    std::thread::spawn(move || while heard.send(told(&socket)).is_ok() {});
    hears
}

#[test]
fn a_service_manager_is_told_when_each_server_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let of_coordinator = heard(UnixDatagram::bind(&path).unwrap());
    // As of systemd in a container: an address without a file.
    let name = format!("farm-test-{}", std::process::id());
    let of_worker = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();

    let database = Database::empty();
    let mut farm = Farm::builder()
        .database_url(database.url())
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .worker(WorkerSpec::new("w1").env("NOTIFY_SOCKET", &format!("@{name}")))
        .start();
    let url = farm.url();
    // The first start migrates, and asks for the time that it needs.
    let next = || of_coordinator.recv_timeout(TOLD_WITHIN).unwrap();
    let mut ready = next();
    assert!(ready.starts_with("EXTEND_TIMEOUT_USEC=4200000000\nSTATUS=migration 0001"), "{ready}");
    while ready.starts_with("EXTEND_TIMEOUT_USEC=") {
        ready = next();
    }
    assert_eq!(ready, format!("READY=1\nSTATUS=serving on {url}"));
    let ready = told(&of_worker);
    assert!(ready.starts_with("READY=1\nSTATUS=in the farm: linux/"), "{ready}");

    farm.stop_worker("w1");
    assert_eq!(told(&of_worker), "STOPPING=1\nSTATUS=draining: 0 jobs run");
    farm.stop_coordinator();
    assert_eq!(next(), "STOPPING=1\nSTATUS=open calls end");
}

/// Its start must not fail, and not take for ever, because a coordinator is away.
#[test]
fn a_worker_without_a_coordinator_has_started_after_a_while_and_goes_on_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut farm = Farm::builder().start();
    farm.stop_coordinator();
    farm.spawn_worker(WorkerSpec::new("w1").env("NOTIFY_SOCKET", path.to_str().unwrap()));
    assert_eq!(told(&socket), "READY=1\nSTATUS=no coordinator has taken it yet; going on to ask");
    farm.start_coordinator();
    farm.wait_worker("w1");
    let taken = told(&socket);
    assert!(taken.contains("STATUS=in the farm: linux/"), "{taken}");
}
