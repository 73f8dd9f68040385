//! Against a SIMULATED sender that answers requests in the odd ways that fsutil's has: several files at once, in pieces.

use std::collections::BTreeMap;
use std::io::Read as _;

use tokio_stream::wrappers::ReceiverStream;

use super::*;

const GO_FOLDER: u32 = 1 << 31;

fn stat(path: &str, mode: u32, size: usize) -> Stat {
    Stat { path: path.to_owned(), mode, size: i64::try_from(size).unwrap(), ..Stat::default() }
}

fn packet(kind: PacketType, id: u32, stat: Option<Stat>, data: &[u8]) -> Result<Bytes, Status> {
    let packet = Packet { r#type: kind.into(), stat, id, data: data.to_vec() };
    Ok(packet.encode_to_vec().into())
}

/// Sends these; what is asked for is answered `together` files at a time, their pieces mixed.
async fn sent(files: Vec<(Stat, Vec<u8>)>, together: usize) -> (Result<(), Status>, Vec<u8>, Vec<u32>) {
    let (to_us, incoming) = mpsc::channel(4);
    let (replies, mut asked) = mpsc::channel(WAITING);
    let (sink, mut parts) = mpsc::channel(4);
    let sending = async move {
        for (stat, _) in &files {
            to_us.send(packet(PacketType::PacketStat, 0, Some(stat.clone()), b"")).await.unwrap();
        }
        to_us.send(packet(PacketType::PacketStat, 0, None, b"")).await.unwrap();
        let mut wanted = Vec::new();
        let mut all = Vec::new();
        while let Some(Ok(bytes)) = asked.recv().await {
            let request = Packet::decode(bytes).unwrap();
            if request.r#type() == PacketType::PacketFin {
                to_us.send(packet(PacketType::PacketFin, 0, None, b"")).await.unwrap();
                break;
            }
            assert_eq!(request.r#type(), PacketType::PacketReq);
            wanted.push(request.id);
            all.push(request.id);
            if wanted.len() < together && !asked.is_empty() {
                continue;
            }
            // The last one that was asked for comes first, each in two pieces and an end.
            for round in 0..3 {
                for id in wanted.iter().rev() {
                    let content = &files[usize::try_from(*id).unwrap()].1;
                    let (one, two) = content.split_at(content.len() / 2);
                    let data = [one, two, b""][round];
                    if !data.is_empty() || round == 2 {
                        to_us.send(packet(PacketType::PacketData, *id, None, data)).await.unwrap();
                    }
                }
            }
            wanted.clear();
        }
        all
    };
    let gathering = async {
        let mut archive = Vec::new();
        while let Some(part) = parts.recv().await {
            if let OutputPart::Data(data) = part {
                archive.extend_from_slice(&data);
            }
        }
        archive
    };
    let taking = async move { files_of(ReceiverStream::new(incoming), Peer::new(replies), sink).await };
    let (taken, archive, asked) = tokio::join!(taking, gathering, sending);
    (taken, archive, asked)
}

const WAITING: usize = 64;

async fn files_of(
    incoming: ReceiverStream<Result<Bytes, Status>>,
    peer: Peer,
    sink: mpsc::Sender<OutputPart>,
) -> Result<(), Status> {
    super::files(incoming, peer, &sink).await
}

fn contents(archive: &[u8]) -> BTreeMap<String, usize> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        assert!(content.iter().all(|byte| *byte == path.as_bytes()[0]), "{path} has another's content");
        (path, content.len())
    });
    entries.collect()
}

#[tokio::test]
async fn files_stand_in_the_order_of_the_list_however_they_come() {
    let link = Stat { linkname: "b".into(), ..stat("h", 0o644, 0) };
    let names = ["a", "b", "c", "d", "e", "f"];
    let sizes = [0, 3, 512, 70_000, 1, 5 << 20];
    for together in [1, 3, 64] {
        let mut list: Vec<(Stat, Vec<u8>)> = vec![(stat("0", GO_FOLDER | 0o755, 4096), Vec::new())];
        list.extend(
            names
                .iter()
                .zip(sizes)
                .map(|(name, size)| (stat(name, 0o644, size), vec![name.as_bytes()[0]; size])),
        );
        list.push((link.clone(), Vec::new()));
        let (taken, archive, asked) = sent(list, together).await;
        taken.unwrap();
        assert_eq!(archive.len() % 512, 0);
        let expected: BTreeMap<String, usize> = names
            .iter()
            .zip(sizes)
            .map(|(name, size)| ((*name).to_owned(), size))
            .chain([("0".to_owned(), 0), ("h".to_owned(), 0)])
            .collect();
        assert_eq!(contents(&archive), expected, "{together}");
        // Folders, links and empty files have nothing to be asked for.
        assert_eq!(asked, [2, 3, 4, 5, 6]);
    }
}

#[tokio::test]
async fn an_empty_folder_is_an_empty_archive() {
    let (taken, archive, _) = sent(Vec::new(), 1).await;
    taken.unwrap();
    assert_eq!(archive, [0; 1024]);
}

#[tokio::test]
async fn what_breaks_off_or_makes_no_sense_is_no_archive() {
    let packets = |packets: Vec<Result<Bytes, Status>>| async move {
        let (replies, _asked) = mpsc::channel(WAITING);
        let (sink, mut parts) = mpsc::channel(64);
        let taken = super::files(futures::stream::iter(packets), Peer::new(replies), &sink).await;
        drop(sink);
        while parts.recv().await.is_some() {}
        taken.map_err(|status| status.message().to_owned())
    };
    let file = |size| packet(PacketType::PacketStat, 0, Some(stat("a", 0o644, size)), b"");
    let data = |id, data: &[u8]| packet(PacketType::PacketData, id, None, data);
    assert!(packets(vec![file(3)]).await.unwrap_err().contains("went away"));
    assert!(packets(vec![file(3), data(0, b"abcd")]).await.unwrap_err().contains("another length"));
    assert!(
        packets(vec![file(3), data(0, b"a"), data(0, b"")]).await.unwrap_err().contains("another length")
    );
    assert!(packets(vec![file(3), data(7, b"a")]).await.unwrap_err().contains("nobody asked"));
    let error = packet(PacketType::PacketErr, 0, None, b"no space");
    assert_eq!(packets(vec![file(3), error]).await.unwrap_err(), "no space");
}
