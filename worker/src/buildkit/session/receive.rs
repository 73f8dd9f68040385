//! Takes a folder's files from the engine's `local` exporter and makes one archive of them.
//!
//! The order of packets (BuildKit, fsutil `send.go` and `receive.go`, here seen from the other side than in
//! [`super::filesync`]): the engine lists all entries (STAT; the n-th has the implicit number n) and ends the list with an
//! empty STAT; we ask for files (REQ); it sends each (DATA, and an empty DATA at its end), several at once; we say FIN, it
//! says FIN.
//!
//! BuildKit's own `tar` exporter rounds times to seconds, which a folder's times are not: hence this. The entries stand in the
//! archive in the order of the list. Files are asked for ahead, as many as [`AHEAD`] bytes, so that small ones don't cost a
//! round trip each; what comes before its turn waits in memory, which so is bounded, but for the list itself ([`ENTRIES`]).

use std::collections::{HashMap, VecDeque};

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::archive;
use crate::buildkit::types::OutputPart;

/// Bytes that are asked for ahead. A file that is longer is asked for alone.
const AHEAD: u64 = 4 << 20;
/// Files that are asked for ahead.
const FILES_AHEAD: usize = 256;
/// The longest list that is taken.
const ENTRIES: u32 = 4_000_000;

/// Go's bits for what isn't a regular file (`io/fs.FileMode`, `ModeType`).
const GO_NOT_REGULAR: u32 = (1 << 31) | (1 << 27) | (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19);

/// The engine's end of a transfer, which takes our packets.
pub(super) struct Peer(mpsc::Sender<Result<Bytes, Status>>);

impl Peer {
    pub(crate) fn new(packets: mpsc::Sender<Result<Bytes, Status>>) -> Self {
        Self(packets)
    }

    async fn say(&self, kind: PacketType, id: u32) -> Result<(), Status> {
        let packet = Packet { r#type: kind.into(), id, ..Packet::default() };
        self.0.send(Ok(packet.encode_to_vec().into())).await.map_err(|_| gone())
    }
}

fn gone() -> Status {
    Status::cancelled("the engine went away")
}

fn senseless(what: &str) -> Status {
    Status::invalid_argument(format!("the engine's list of files makes no sense: {what}"))
}

/// Takes all files, as one archive.
pub(crate) async fn files(
    mut incoming: impl Stream<Item = Result<Bytes, Status>> + Unpin,
    peer: Peer,
    sink: &mpsc::Sender<OutputPart>,
) -> Result<(), Status> {
    let mut taking = Taking::new(peer, sink);
    while let Some(message) = incoming.next().await {
        let packet = Packet::decode(message?)
            .map_err(|error| Status::invalid_argument(format!("no packet of fsutil's: {error}")))?;
        let kind = packet.r#type();
        match kind {
            PacketType::PacketStat => taking.listed(packet.stat)?,
            PacketType::PacketData => taking.data(packet.id, packet.data).await?,
            PacketType::PacketFin => return Ok(()),
            PacketType::PacketErr => {
                return Err(Status::aborted(String::from_utf8_lossy(&packet.data).into_owned()));
            }
            PacketType::PacketReq => return Err(senseless("it asks us for a file")),
        }
        taking.go_on().await?;
    }
    Err(gone())
}

/// An entry whose turn has not come.
struct Waiting {
    id: u32,
    stat: Stat,
}

impl Waiting {
    /// How long the content is that has to be asked for, bytes; 0 of all but regular files.
    fn content(&self) -> u64 {
        let is_file = self.stat.mode & GO_NOT_REGULAR == 0 && self.stat.linkname.is_empty();
        if is_file { u64::try_from(self.stat.size).unwrap_or(0) } else { 0 }
    }
}

#[derive(Default)]
struct Arrived {
    data: BytesMut,
    is_whole: bool,
}

struct Taking<'a> {
    peer: Peer,
    sink: &'a mpsc::Sender<OutputPart>,
    entries: VecDeque<Waiting>,
    next_id: u32,
    is_listed: bool,
    has_said_fin: bool,
    /// How many of `entries`, from the front, were asked for, or need not be.
    asked: usize,
    /// Bytes and files that were asked for and have not been handed on.
    ahead: (u64, usize),
    /// What came before its turn, by number.
    arrived: HashMap<u32, Arrived>,
    /// Of the first entry: how much of its content was handed on; `None`: its header wasn't either.
    written: Option<u64>,
}

impl<'a> Taking<'a> {
    fn new(peer: Peer, sink: &'a mpsc::Sender<OutputPart>) -> Self {
        Self {
            peer,
            sink,
            entries: VecDeque::new(),
            next_id: 0,
            is_listed: false,
            has_said_fin: false,
            asked: 0,
            ahead: (0, 0),
            arrived: HashMap::new(),
            written: None,
        }
    }

    fn listed(&mut self, stat: Option<Stat>) -> Result<(), Status> {
        let Some(stat) = stat else {
            self.is_listed = true;
            return Ok(());
        };
        if self.is_listed || self.next_id >= ENTRIES {
            return Err(senseless("it does not end"));
        }
        self.entries.push_back(Waiting { id: self.next_id, stat });
        self.next_id += 1;
        Ok(())
    }

    async fn data(&mut self, id: u32, data: Vec<u8>) -> Result<(), Status> {
        let first = self.entries.front().filter(|first| first.id == id).map(Waiting::content);
        if let (Some(content), false, Some(written)) = (first, data.is_empty(), self.written) {
            // The usual case of a long file: nothing of it waits.
            let written = written + u64::try_from(data.len()).unwrap_or(u64::MAX);
            if written > content {
                return Err(senseless("a file has another length"));
            }
            self.written = Some(written);
            return self.hand_on(data.into()).await;
        }
        // Only what was asked for may come.
        let place = usize::try_from(id).ok().and_then(|id| {
            let front = usize::try_from(self.entries.front()?.id).ok()?;
            id.checked_sub(front)
        });
        if place.is_none_or(|place| place >= self.asked) {
            return Err(senseless("it sends what nobody asked for"));
        }
        let arrived = self.arrived.entry(id).or_default();
        arrived.is_whole |= data.is_empty();
        arrived.data.extend_from_slice(&data);
        Ok(())
    }

    /// Hands on what is there in turn, asks for what comes next, and says the end.
    async fn go_on(&mut self) -> Result<(), Status> {
        loop {
            self.ask().await?;
            let Some(first) = self.entries.front() else { break };
            let (id, content) = (first.id, first.content());
            if self.written.is_none() {
                let header = archive::header(&first.stat).map_err(|why| senseless(&why))?;
                self.written = Some(0);
                self.hand_on(header.into()).await?;
            }
            if content > 0 {
                let Some(arrived) = self.arrived.get_mut(&id) else { break };
                let (data, is_whole) = (arrived.data.split().freeze(), arrived.is_whole);
                let written = self.written.unwrap_or(0) + u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.written = Some(written);
                if !data.is_empty() {
                    self.hand_on(data).await?;
                }
                if written > content || (is_whole && written < content) {
                    return Err(senseless("a file has another length"));
                }
                if !is_whole {
                    break;
                }
                self.hand_on(archive::padding(content)).await?;
                self.arrived.remove(&id);
                self.ahead = (self.ahead.0 - content, self.ahead.1 - 1);
            }
            self.written = None;
            self.entries.pop_front();
            self.asked = self.asked.saturating_sub(1);
        }
        if self.is_listed && self.entries.is_empty() && !self.has_said_fin {
            self.has_said_fin = true;
            self.hand_on(archive::end()).await?;
            self.peer.say(PacketType::PacketFin, 0).await?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), Status> {
        while let Some(next) = self.entries.get(self.asked) {
            let (id, content) = (next.id, next.content());
            if content > 0 {
                let is_room = self.ahead.0 + content <= AHEAD && self.ahead.1 < FILES_AHEAD;
                if self.ahead.1 > 0 && !is_room {
                    break;
                }
                self.ahead = (self.ahead.0 + content, self.ahead.1 + 1);
                self.peer.say(PacketType::PacketReq, id).await?;
            }
            self.asked += 1;
        }
        Ok(())
    }

    async fn hand_on(&self, bytes: Bytes) -> Result<(), Status> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sink.send(OutputPart::Data(bytes)).await.map_err(|_| unwanted())
    }
}

/// Nobody takes the bytes any more; why is known there.
pub(super) fn unwanted() -> Status {
    Status::aborted("farm does not take this output any more")
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
