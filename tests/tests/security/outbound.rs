//! Where a farm may be made to send requests: by whoever names an image.

use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;

use farm_tests::farm::Farm;

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    (listener, host)
}

#[test]
fn a_service_beside_the_coordinator_is_asked_nothing_until_the_configuration_names_it() {
    let (listener, host) = listener();
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let image = format!("{host}/a:1");
    let submit =
        ["submit", context.path().to_str().unwrap(), "-t", &image, "--platform", "linux/amd64", "--detach"];
    let farm = Farm::builder().guarded().start();
    let own = farm.url().replacen("http://", "", 1);
    for args in [&["inspect", &image][..], &submit] {
        let refused = farm.cli(args);
        assert_ne!(refused.status, 0, "{refused:?}");
        for part in [&host, "127.0.0.1, loopback", &format!("[registries.\"{host}\"]")] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
    }
    // The coordinator itself is such a service.
    let refused = farm.cli(&["inspect", &format!("{own}/a:1")]);
    assert!(refused.status != 0 && refused.stderr.contains("loopback"), "{refused:?}");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it was asked");

    let farm = Farm::builder().guarded().config(&format!("[registries.\"{host}\"]\n")).start();
    listener.set_nonblocking(false).unwrap();
    let (tells, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let none = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            // Whoever asks may have gone.
            let _ = (stream.write_all(none), tells.send(()));
        }
    });
    let asked = farm.cli(&["inspect", &image]);
    assert!(asked.status != 0 && !asked.stderr.contains("loopback"), "{asked:?}");
    hears.try_recv().expect("it was not asked");
}
