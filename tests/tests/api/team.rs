//! What persons type to share a farm: projects, members and tokens by the command line, on a real coordinator.

use std::time::{Duration, Instant};

use farm_tests::farm::{Farm, Output, output};

/// `farm ARGS` by whoever has this token.
fn by(farm: &Farm, token: &str, args: &[&str]) -> Output {
    output(farm.command(args).env("FARM_TOKEN", token))
}

/// The token that `farm token create` makes; it must be all of standard output.
#[track_caller]
fn token(made: Output, kind: &str) -> String {
    let text = made.ok();
    let token = text.strip_suffix('\n').unwrap();
    assert!(token.starts_with(kind) && token.len() == kind.len() + 64, "{text:?}");
    token.to_owned()
}

/// That it is refused with this exit code and these words; gives all that was said.
#[track_caller]
fn refused(said: Output, status: i32, words: &[&str]) -> String {
    assert_eq!((said.status, said.stdout.as_str()), (status, ""), "{said:?}");
    for part in words {
        assert!(said.stderr.contains(part), "`{part}` is missing in {said:?}");
    }
    said.stderr
}

/// A farm with a project web whose admin is ada, and her token.
fn web() -> (Farm, String) {
    let farm = Farm::builder().start();
    let made = farm.cli(&["project", "create", "web", "--admin", "ada"]).ok();
    assert_eq!(made, "project web is made, and ada is its admin\n");
    let ada = token(farm.cli(&["token", "create", "--for", "ada", "--label", "laptop"]), "farm_p_");
    (farm, ada)
}

#[test]
fn a_team_has_its_roles_and_each_refusal_names_the_cure() {
    let (farm, ada) = web();
    let who = by(&farm, &ada, &["whoami"]).ok();
    assert!(who.contains("who      ada, a person\nmay      admin of web\n"), "{who}");
    assert!(who.contains(&format!("{}…, until ", &ada[..12])) && who.contains("(in 90 d)"), "{who}");
    assert!(who.contains("project  web, since none is said"), "{who}");
    let set = by(&farm, &ada, &["member", "set", "bob", "--role", "builder"]).ok();
    assert_eq!(set, "bob is builder of project web\n");
    by(&farm, &ada, &["member", "set", "vera", "--role", "viewer"]).ok();
    let create = ["token", "create", "--service", "ci", "--role", "builder", "--expires", "never"];
    let made = by(&farm, &ada, &create);
    let told = made.stderr.clone();
    let ci = token(made, "farm_s_");
    assert!(told.contains("… of web/ci: builder of its project, until it is revoked"), "{told}");
    assert!(told.contains("shown this once") && !told.contains(&ci), "{told}");
    let members = by(&farm, &ada, &["member", "ls"]).ok();
    assert_eq!(
        members.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
        [
            "MEMBER KIND ROLE",
            "ada person admin",
            "bob person builder",
            "vera person viewer",
            "web/ci service builder"
        ]
    );

    let bob = token(farm.cli(&["token", "create", "--for", "bob"]), "farm_p_");
    let vera = token(farm.cli(&["token", "create", "--for", "vera", "--expires", "12h"]), "farm_p_");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let submit = ["submit", folder.path().to_str().unwrap(), "--platform", "linux/amd64", "--detach"];
    for token in [&bob, &ci] {
        by(&farm, token, &submit).ok();
    }
    assert_eq!(by(&farm, &vera, &["builds"]).ok().lines().count(), 3);
    // What each of them lacks, and who can give it.
    let url = farm.url();
    let said = refused(by(&farm, &vera, &submit), 3, &[]);
    assert_eq!(
        said,
        format!(
            "error: the farm at {url} refuses: vera is viewer of project web; to submit builds needs builder. An admin of web \
             can give that: farm member set vera --role builder --project web\n"
        )
    );
    let set = ["member", "set", "eve", "--role", "admin"];
    refused(by(&farm, &bob, &set), 3, &["bob is builder of project web", "needs admin", "--project web"]);
    refused(by(&farm, &ada, &["project", "create", "own"]), 3, &["ada is no admin", "farm admin add ada"]);
    refused(by(&farm, &ada, &["token", "create", "--for", "eve"]), 3, &["ada is no admin of this farm"]);
    refused(by(&farm, &ci, &["token", "create"]), 3, &["web/ci is no person"]);
    refused(farm.cli(&["token", "create"]), 3, &["--for NAME", "--service NAME"]);
    // The builds are web's: another project has none.
    assert!(farm.cli(&["builds"]).ok().starts_with("no builds yet"));
    assert_eq!(farm.cli(&["builds", "--project", "web"]).ok().lines().count(), 3);
    by(&farm, &ada, &["member", "rm", "web/ci"]).ok();
    let left = until_refused(&farm, &ci, &["builds"]);
    assert!(left.contains("of web/ci was revoked"), "{left}");
    refused(by(&farm, &ada, &["member", "rm", "web/ci"]), 2, &["nobody in project web is called"]);
}

/// Asks until it is refused, which has to be within 5 s; gives what was said.
#[track_caller]
fn until_refused(farm: &Farm, token: &str, args: &[&str]) -> String {
    let begin = Instant::now();
    loop {
        let said = by(farm, token, args);
        if said.status != 0 {
            println!("refused after {:?}", begin.elapsed());
            return refused(said, 3, &["refuses: "]);
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "it is let in after 5 s");
    }
}

#[test]
fn a_token_that_is_revoked_is_refused_within_5_s_and_so_is_what_was_made_with_it() {
    let (farm, ada) = web();
    let child =
        token(by(&farm, &ada, &["token", "create", "--role", "viewer", "--expires", "1h"]), "farm_p_");
    let who = by(&farm, &child, &["whoami"]).ok();
    assert!(who.contains("may      viewer of web"), "{who}");
    let listed = by(&farm, &ada, &["token", "ls"]).ok();
    let line = |hint: &str| listed.lines().find(|line| line.starts_with(hint)).unwrap().to_owned();
    assert!(line(&ada[..12]).contains("laptop") && line(&child[..12]).contains("at most viewer"), "{listed}");
    assert!(listed.lines().count() == 3 && !listed.contains(&ada) && !listed.contains(&child), "{listed}");
    let revoked = farm.cli(&["token", "revoke", &ada]).ok();
    let hint = &ada[..12];
    assert_eq!(
        revoked,
        format!(
            "token {hint}… of ada is revoked, with 1 that was made with it; nobody takes them any more within 5 s\n"
        )
    );
    let left = until_refused(&farm, &ada, &["whoami"]);
    assert!(left.contains(&format!("refuses: token {hint}… of ada was revoked on ")), "{left}");
    assert!(left.contains("ask an admin for one"), "{left}");
    until_refused(&farm, &child, &["whoami"]);
    let again = farm.cli(&["token", "revoke", hint]).ok();
    assert_eq!(again, format!("token {hint} counted no more already\n"));
    let unknown =
        refused(farm.cli(&["token", "revoke", "farm_p_00000"]), 2, &["there is no token", "farm token ls"]);
    assert!(unknown.contains("admin may revoke"), "{unknown}");
}

#[test]
fn who_is_in_two_projects_says_in_which_and_a_stranger_is_told_nothing() {
    let (farm, ada) = web();
    farm.cli(&["project", "create", "api", "--admin", "ada"]).ok();
    farm.cli(&["project", "create", "secret", "--admin", "eve"]).ok();
    refused(by(&farm, &ada, &["builds"]), 2, &["several projects (api, web)", "--project or FARM_PROJECT"]);
    by(&farm, &ada, &["builds", "--project", "api"]).ok();
    output(farm.command(&["builds"]).env("FARM_TOKEN", &ada).env("FARM_PROJECT", "web")).ok();
    let who = by(&farm, &ada, &["whoami"]).ok();
    assert!(who.contains("project  none is said; say it with --project"), "{who}");
    // A context says it once.
    let config = |args: &[&str]| {
        let mut command = farm.command(args);
        output(command.env_remove("FARM_URL").env("FARM_TOKEN", &ada))
    };
    config(&["config", "add", "team", &farm.url(), "--project", "api"]).ok();
    assert!(config(&["whoami", "--context", "team"]).ok().contains("project  api, from the context"));
    let shown = config(&["config", "--context", "team", "--project", "web"]).ok();
    assert!(shown.contains("PROJECT") && shown.contains("used  project web, from --project"), "{shown}");
    // One that she isn't in is as one that is not there.
    for args in [&["builds"][..], &["member", "ls"], &["member", "set", "ada", "--role", "admin"]] {
        let told = |name: &str| {
            let said = by(&farm, &ada, &[args, &["--project", name]].concat());
            refused(said, 3, &["that ada is in"]).replace(name, "NAME")
        };
        assert_eq!(told("secret"), told("nothing"), "{args:?}");
    }
    let only = |name: &str| by(&farm, &ada, &["token", "create", "--only-project", name]);
    let told = |name: &str| refused(only(name), 3, &["that ada is in"]).replace(name, "NAME");
    assert_eq!(told("secret"), told("nothing"));
    let listed = by(&farm, &ada, &["project", "ls"]).ok();
    assert!(listed.contains("web") && listed.contains("api") && !listed.contains("secret"), "{listed}");
    // What can't be a name is told before anybody is asked.
    let nobody = |args: &[&str]| output(farm.command(args).env("FARM_URL", "http://127.0.0.1:1"));
    refused(nobody(&["builds", "--project", "Web"]), 2, &["--project \"Web\": write 1 to 40"]);
    refused(
        nobody(&["member", "set", "bob", "--role", "bulider"]),
        2,
        &["--role \"bulider\": did you mean builder?"],
    );
    refused(nobody(&["token", "create", "--for", "Ada"]), 2, &["--for \"Ada\": "]);
    refused(nobody(&["token", "create", "--expires", "soon"]), 2, &["like 12h or 90d"]);
}

#[test]
fn projects_and_admins_of_the_farm_come_and_go() {
    let (farm, ada) = web();
    refused(farm.cli(&["project", "create", "web"]), 2, &["there is a project web already"]);
    let lone = farm.cli(&["project", "create", "lone"]).ok();
    assert!(lone.contains("farm member set PERSON --role admin --project lone"), "{lone}");
    let shown = farm.cli(&["project", "show", "web"]).ok();
    assert!(
        shown.starts_with("project web, made just now; you are its admin\n")
            && shown.contains("ada     person  admin"),
        "{shown}"
    );
    assert!(farm.cli(&["admin", "ls"]).ok().starts_with("nobody but whoever has"));
    assert_eq!(
        farm.cli(&["admin", "rm", "ada"]).ok(),
        "ada was no admin of the farm; `farm admin ls` lists those who are\n"
    );
    assert_eq!(farm.cli(&["admin", "add", "ada"]).ok(), "ada is an admin of the farm\n");
    assert_eq!(farm.cli(&["admin", "add", "ada"]).ok(), "ada was an admin of the farm already\n");
    assert!(farm.cli(&["admin", "ls"]).ok().starts_with("ada\n"));
    // Known for a second at most.
    let begin = Instant::now();
    while by(&farm, &ada, &["project", "create", "more"]).status != 0 {
        assert!(begin.elapsed() < Duration::from_secs(5), "she is no admin yet");
    }
    by(&farm, &ada, &["admin", "rm", "ada"]).ok();
    assert!(until_refused(&farm, &ada, &["admin", "ls"]).contains("ada is no admin of this farm"));
    refused(farm.cli(&["project", "rm", "web"]), 2, &["project web goes with", "add --yes"]);
    refused(farm.cli(&["project", "rm", "default", "--yes"]), 2, &["default can't be removed"]);
    refused(farm.cli(&["project", "rm", "none", "--yes"]), 2, &["there is no project none"]);
    assert_eq!(
        farm.cli(&["project", "rm", "web", "--yes"]).ok(),
        "project web is removed; nobody is in it any more\n"
    );
    let left = until_refused(&farm, &ada, &["builds"]);
    assert!(left.contains("ada is in no project"), "{left}");
    assert!(by(&farm, &ada, &["project", "ls"]).ok().starts_with("you are in no project"));
    farm.cli(&["project", "create", "web"]).ok();
}
