use futures::FutureExt as _;

use super::*;

fn question(build: BuildId, message: &'static [u8]) -> Question {
    Question::new(build, "default".parse().unwrap(), vec![Bytes::from_static(message)]).unwrap()
}

#[tokio::test]
async fn a_question_goes_to_the_newest_offer_of_its_build() {
    let agents = Agents::default();
    let (one, other) = (BuildId::generate(), BuildId::generate());
    assert_eq!(agents.take_of_other(&question(one, b"x")).await.unwrap_err().code(), tonic::Code::NotFound);
    let mut first = agents.offer(one);
    let waiting = agents.take(&question(one, b"first")).await.unwrap();
    let mut second = agents.offer(one);
    let answered = agents.take(&question(one, b"second")).await.unwrap();
    assert!(agents.take(&question(other, b"x")).await.is_none());

    // What the first one had taken is its own to answer; then it hears that it is replaced.
    assert_eq!(first.next().await.unwrap().question.messages[0], "first");
    assert!(first.next().await.is_none());
    drop(first);
    assert!(waiting.await.is_err());
    let asked = second.next().await.unwrap();
    assert_eq!((asked.question.build, &asked.question.messages[0][..]), (one, &b"second"[..]));
    asked.answer.send(Bytes::from_static(b"signed")).unwrap();
    assert_eq!(answered.await.unwrap(), "signed");
    drop(second);
    assert!(agents.take(&question(one, b"x")).await.is_none() && agents.offers().of.is_empty());
}

#[tokio::test]
async fn who_asks_before_there_is_an_offer_waits_for_it() {
    let agents = Agents::default();
    let build = BuildId::generate();
    let asked = question(build, b"early");
    let mut waiting = Box::pin(agents.take_later(&asked));
    assert!(waiting.as_mut().now_or_never().is_none());
    // Another build's is none.
    let _other = agents.offer(BuildId::generate());
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut offer = agents.offer(build);
    let answered = waiting.await;
    offer.next().await.unwrap().answer.send(Bytes::from_static(b"late")).unwrap();
    assert_eq!(answered.await.unwrap(), "late");
}

#[tokio::test]
async fn a_full_queue_makes_who_asks_wait_and_an_offer_that_ends_lets_all_go() {
    let agents = Agents::default();
    let build = BuildId::generate();
    let offer = agents.offer(build);
    let mut taken = Vec::new();
    for _ in 0..WAITING {
        taken.push(agents.take(&question(build, b"x")).await.unwrap());
    }
    let asked = question(build, b"one more");
    let mut waiting = Box::pin(agents.take(&asked));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(offer);
    assert!(waiting.await.is_none());
    for answered in taken {
        assert!(answered.await.is_err());
    }
}

#[test]
fn a_question_is_bounded() {
    let of =
        |messages: Vec<Bytes>| Question::new(BuildId::generate(), "a".parse().unwrap(), messages).is_ok();
    let long = Bytes::from(vec![0; MOST_MESSAGE_BYTES]);
    assert!(of(vec![long.clone(), long.clone()]) && of(vec![Bytes::new(); MOST_MESSAGES]));
    assert!(!of(Vec::new()) && !of(vec![Bytes::new(); MOST_MESSAGES + 1]));
    assert!(!of(vec![long.clone(), long, Bytes::from_static(b"x")]));
}
