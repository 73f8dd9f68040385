//! A browser that looks at the farm's pages signs in at the issuer.

use farm_tests::browser::Browser;
use farm_tests::ports::free_port;

use super::world::{get, world_with};

#[test]
fn a_browser_is_sent_to_the_issuer_and_comes_back_to_the_page_that_it_wanted() {
    let port = free_port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let world = world_with("", |farm| farm.arg("--web-listen").arg(&listen).arg("--public-url").arg(&url));
    let wanted = "/b/zzzzzz?project=web";
    let mut browser = Browser::new(port);
    let asked = browser.get(wanted);
    assert!(asked.status == 401 && asked.body.contains("Sign in at "), "{asked:?}");
    let to_issuer = format!("/sign-in/issuer?next={}", farm_types::escaped(wanted));
    assert!(asked.body.contains(&to_issuer.replace('/', "&#x2f;")), "{asked:?}");

    let leave = |browser: &mut Browser| {
        let leads = browser.get(&to_issuer);
        let page = leads.header("location").unwrap_or_else(|| panic!("{leads:?}")).to_owned();
        assert!(leads.status == 303 && page.starts_with(&world.issuer.url()), "{leads:?}");
        let back = get(&page, None).1.unwrap_or_else(|| panic!("{page} leads nowhere"));
        back.strip_prefix(&url).unwrap_or_else(|| panic!("{back}")).to_owned()
    };
    let back = leave(&mut browser);
    // Another browser's answer is nobody's, nor is one that was asked for something else.
    assert_eq!(Browser::new(port).get(&back).status, 400);
    assert_eq!(browser.clone().get(&back.replace("state=", "state=0")).status, 400);
    let arrived = browser.get(&back);
    assert_eq!((arrived.status, arrived.header("location")), (303, Some(wanted)), "{arrived:?}");
    assert!(browser.cookies.contains_key("farm_session") && !browser.cookies.contains_key("farm_leave"));
    let home = browser.get("/");
    assert!(home.status == 200 && home.body.contains(">ada<"), "{home:?}");
    assert_eq!(browser.get(wanted).status, 404, "signed in, and there is no such build");
    // The code counts once, and nobody but the farm has the token.
    assert_eq!(browser.clone().get(&back).status, 400);
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND label = 'sign-in on browser'";
    assert_eq!(world.sql(counts), "1");
    browser.post("/sign-out", &[("guard", home.guard())]);
    assert_eq!(world.sql(counts), "0");
    assert_eq!(browser.get("/").status, 401);

    world.issuer.people(|people| people.denies = true);
    let back = leave(&mut browser);
    let denied = browser.get(&back);
    assert!(denied.status == 401 && denied.body.contains("let nobody in"), "{denied:?}");
    assert!(!browser.cookies.contains_key("farm_session"));
}
