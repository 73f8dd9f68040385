//! `farm history` and `farm rollback`: what a tag has pointed to, and back to one of these.

use farm_proto::v1::{GetTagHistoryRequest, GetTagHistoryResponse, TagMove};
use farm_types::{CopySpec, CopyVerb, Digest, ImageRef, ImageTag, Invalid};

use super::copy::{Ways, make};
use super::now_ms;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::history::{HistoryJson, lines};
use crate::output::json;

/// Arguments of `farm history`.
#[derive(Debug, clap::Args)]
#[command(after_help = HISTORY_HELP)]
pub struct HistoryArgs {
    /// The tag: [REGISTRY/]REPO[:TAG]
    #[arg(value_name = "REF")]
    tag: String,

    /// Show so many moves, the newest; at most 100
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `farm rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = ROLLBACK_HELP)]
pub struct RollbackArgs {
    /// The tag: [REGISTRY/]REPO[:TAG]
    #[arg(value_name = "REF")]
    tag: String,

    /// To which: the number of a move in farm history, or a digest [default: what it was before]
    #[arg(long, value_name = "N|DIGEST")]
    to: Option<String>,

    #[command(flatten)]
    ways: Ways,
}

const HISTORY_HELP: &str = "\
Examples:
  farm history registry.example/team/app
  farm history registry.example/team/app:1.4 --json

A line for each time that farm has moved the tag for the project, the newest first, and what the
registry says that it points to now. Where somebody else has moved it in between, that is said.

Exit codes:
  0  shown
  2  the tag can't be taken, or farm has never moved it
  3  no farm answers, or it refuses the token";

const ROLLBACK_HELP: &str = "\
Examples:
  farm rollback registry.example/team/app
  farm rollback registry.example/team/app --to 3
  farm rollback registry.example/team/app --to sha256:DIGEST

Without --to the tag goes back to what it was before it came to what it is now; a second time it
is back again where it began. The image has to be in the repository still. A rollback is a new
intention: builds that are under way were asked for earlier, and don't undo it; what is asked for
afterwards does.

Exit codes: those of farm submit";

/// Shows what a tag has pointed to.
///
/// # Errors
/// Farm has never moved it, or can't be asked.
pub(crate) async fn history(args: HistoryArgs, setup: &Setup) -> Result<Exit> {
    let tag: ImageTag = args.tag.parse()?;
    let client = Client::connect(&setup.address).await?;
    let history = ask(&client, &tag, args.limit).await?;
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&HistoryJson::from(&history)));
    } else {
        out.lines(lines(&history, now_ms()));
    }
    Ok(Exit::Done)
}

/// Moves a tag back.
///
/// # Errors
/// There is nothing to which it could go back, or what [`super::copy::copy`] fails with.
pub(crate) async fn rollback(args: RollbackArgs, setup: &Setup) -> Result<Exit> {
    let tag: ImageTag = args.tag.parse()?;
    let to = args.to.as_deref().map(To::read).transpose()?;
    if to.is_none() && args.ways.has_key() {
        let cure = "with a key it has to be said to what, as that is another image each time: write --to N or --to DIGEST";
        return Err(Invalid::new("--idempotency-key", tag.to_string(), cure).into());
    }
    let client = Client::connect(&setup.address).await?;
    let digest = match to {
        Some(To::Digest(digest)) => digest,
        to => chosen(&ask(&client, &tag, 100).await?, to)?,
    };
    let from = ImageRef { repository: tag.repository.clone(), tag: None, digest: Some(digest) };
    let copy = CopySpec { from, verb: CopyVerb::Rollback, platforms: Vec::new() };
    Ok(make(&client, copy, &[tag], &args.ways, setup).await?.0)
}

async fn ask(client: &Client, tag: &ImageTag, most: u32) -> Result<GetTagHistoryResponse> {
    let request = GetTagHistoryRequest { reference: tag.to_string(), most };
    let answer = client.images().get_tag_history(request).await.map_err(|e| client.error(&e))?;
    Ok(answer.into_inner())
}

/// Where a tag is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Number(u64),
    Digest(Digest),
}

impl To {
    fn read(text: &str) -> std::result::Result<Self, Invalid> {
        let cure =
            "write the number of a move as farm history shows it, or sha256: and 64 hexadecimal digits";
        match (text.parse(), text.parse()) {
            (Ok(number), _) => Ok(Self::Number(number)),
            (_, Ok(digest)) => Ok(Self::Digest(digest)),
            _ => Err(Invalid::new("--to", text, cure)),
        }
    }
}

/// Which image a tag goes back to.
fn chosen(history: &GetTagHistoryResponse, to: Option<To>) -> std::result::Result<Digest, Invalid> {
    let tag = &history.reference;
    let digest = |one: &TagMove| one.digest.parse::<Digest>();
    let digests = history.moves.iter().map(digest).collect::<std::result::Result<Vec<_>, _>>()?;
    match to {
        Some(To::Digest(digest)) => Ok(digest),
        Some(To::Number(number)) => {
            let place = history.moves.iter().position(|one| one.number == number);
            let cure = || format!("{tag} has no such move; `farm history {tag}` lists those that are there");
            let found = place.and_then(|place| digests.get(place).copied());
            found.ok_or_else(|| Invalid::new("--to", number.to_string(), cure()))
        }
        None => {
            // Where nobody says what it is now, it is what farm has moved it to.
            let now = history.current_digest.parse().ok().or(digests.first().copied());
            // What it was before it came to that; or, where others have moved it, what farm had moved it to.
            let behind = digests.iter().position(|digest| Some(*digest) == now).map_or(0, |place| place + 1);
            let before = digests.iter().skip(behind).find(|digest| Some(**digest) != now);
            let first = || history.moves.get(behind.checked_sub(1)?)?.previous_digest.parse().ok();
            before.copied().or_else(first).ok_or_else(|| {
                let cure = format!(
                    "farm has moved {tag} to one image only; name another by its digest: --to DIGEST"
                );
                Invalid::new("rollback", tag, cure)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(current: &str, moves: &[&str]) -> GetTagHistoryResponse {
        let digest = |what: &str| {
            if what.is_empty() { String::new() } else { Digest::of(what.as_bytes()).to_string() }
        };
        let moves = moves.iter().rev().zip(1..).map(|(one, number)| TagMove {
            number,
            digest: digest(one),
            ..Default::default()
        });
        let mut moves: Vec<TagMove> = moves.collect();
        moves.reverse();
        GetTagHistoryResponse {
            reference: "r.example/app:1".to_owned(),
            moves,
            current_digest: digest(current),
            ..Default::default()
        }
    }

    #[test]
    fn a_tag_goes_back_to_what_it_was_before_what_it_is() {
        let of = |what: &str| Digest::of(what.as_bytes());
        assert_eq!(chosen(&history("c", &["c", "b", "a"]), None), Ok(of("b")));
        // Back again, it goes to what was before that.
        assert_eq!(chosen(&history("b", &["b", "c", "b", "a"]), None), Ok(of("c")));
        assert_eq!(chosen(&history("a", &["a", "a", "b"]), None), Ok(of("b")), "it was put there twice");
        // Somebody else has moved it.
        assert_eq!(chosen(&history("x", &["c", "b"]), None), Ok(of("c")));
        assert_eq!(chosen(&history("", &["c", "b"]), None), Ok(of("b")), "nobody says what it is");
        assert_eq!(chosen(&history("c", &["c", "b", "a"]), Some(To::Number(1))), Ok(of("a")));
        let none = chosen(&history("c", &["c", "b"]), Some(To::Number(7))).unwrap_err().to_string();
        assert!(none.contains("no such move"), "{none}");
        let one = chosen(&history("c", &["c"]), None).unwrap_err().to_string();
        assert!(one.contains("one image only"), "{one}");
        // What was there before farm came.
        let mut begun = history("c", &["c"]);
        begun.moves[0].previous_digest = of("others").to_string();
        assert_eq!(chosen(&begun, None), Ok(of("others")));
    }

    #[test]
    fn where_to_is_a_number_or_a_digest() {
        assert_eq!(To::read("3"), Ok(To::Number(3)));
        let digest = Digest::of(b"x");
        assert_eq!(To::read(&digest.to_string()), Ok(To::Digest(digest)));
        assert!(To::read("latest").unwrap_err().to_string().contains("farm history"));
    }
}
