//! Images named by their digest, on an engine that has them: a digest is no right to what it names.

use std::process::Command;

use farm_tests::farm::{Farm, FarmBuilder, Output, WorkerSpec};
use farm_tests::process::run;
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::{PASSWORD, TokenService, USER};
use serde_json::Value;

use crate::support::*;

/// A registry with tokens, of whose images the farm's one engine has several: `api/secret:1` is of project api, `web/own:1` of
/// project web, `public/…:1` are everybody's.
struct Town {
    farm: Farm,
    service: TokenService,
    registry: PrivateRegistry,
}

impl Town {
    fn start() -> Self {
        Self::of(Farm::builder())
    }

    fn of(farm: FarmBuilder) -> Self {
        let service = TokenService::start();
        let registry = PrivateRegistry::start_with_tokens(&service);
        let at = registry.address();
        // Base images come from a registry beside, of which there is no login.
        let settings = service.settings(&at) + "[registries.'localhost:5002']\nplain_http = true\n";
        let mut farm = farm.config(&settings).start();
        for project in ["api", "web"] {
            farm.cli(&["project", "create", project]).ok();
            farm.cli(&["project", "allow", project, "--push", &format!("{at}/{project}")]).ok();
        }
        farm.add_worker(WorkerSpec::new("w1").platforms(BOTH).slots(2));
        let town = Self { farm, service, registry };
        let public = ["public/os", "public/tools", "public/lint"].map(|name| ("default", name));
        for (project, name) in [("api", "api/secret"), ("web", "web/own")].into_iter().chain(public) {
            let tag = format!("{}:1", town.image(name));
            town.build(project, &format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce()), &["-t", &tag]).ok();
            // From then on the engine has it.
            town.build(project, &derived(&tag), &[]).ok();
        }
        town
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address())
    }

    /// `HOST/REPO@DIGEST` of what its tag `1` names.
    fn by_digest(&self, name: &str) -> String {
        let image = self.image(name);
        let stored = raw_as(&format!("{image}:1"), &["--creds", &format!("{USER}:{PASSWORD}")]).unwrap();
        format!("{image}@{}", digest_of(&stored))
    }

    fn build(&self, project: &str, dockerfile: &str, args: &[&str]) -> Output {
        let mut all = vec!["--project", project, "--platform", "linux/amd64"];
        all.extend(args);
        submit(&self.farm, &Context::new(dockerfile), &all)
    }

    /// Why a build of project web failed.
    #[track_caller]
    fn failure(&self, output: &Output) -> Value {
        assert_eq!(output.status, 1, "{output:?}");
        let id = build_id(&output.stdout);
        self.farm.cli(&["show", &id, "--project", "web", "--json"]).json()["failure"].clone()
    }

    /// Project web can't, and is told what would be told of a repository that isn't there.
    #[track_caller]
    fn is_kept_out(&self, repository: &str, output: &Output) {
        let failure = self.failure(output);
        let (host, _) = repository.split_once('/').unwrap();
        let said = format!(
            "{repository} is not there for everybody, and project web may not pull from it with the farm's credentials; an admin of \
             web can give it a login of its own: farm registry login {host} --project web; or an admin of the farm can allow it: farm \
             project allow web --pull {repository}"
        );
        let (cause, code) = (&failure["cause"], &failure["code"]);
        assert_eq!((cause, code), (&"user".into(), &"registry_auth".into()), "{failure:#}");
        assert_eq!(failure["message"], said.as_str(), "{failure:#}");
    }

    /// How often anybody's token was asked for, for this repository.
    fn looks(&self, name: &str) -> usize {
        let scope = format!("{name}:pull");
        self.service.asked().iter().filter(|asked| !asked.by_farm && asked.scopes.contains(&scope)).count()
    }
}

fn derived(from: &str) -> String {
    format!("FROM {from}\nCOPY Dockerfile /{}\n", nonce())
}

#[test]
fn by_whatever_name_with_its_digest_another_projects_image_is_refused_though_the_engine_has_it() {
    let town = Town::start();
    let (secret, by_digest) = (town.image("api/secret"), town.by_digest("api/secret"));
    let (_, digest) = by_digest.split_once('@').unwrap();
    let with_tag = format!("{secret}:1@{digest}");
    let in_capitals = by_digest.replace("localhost", "LOCALHOST");
    let copied = format!("FROM {BASE}\nCOPY --from={by_digest} / /x/{}\n", nonce());
    let mounted = format!("FROM {BASE}\nRUN --mount=from={by_digest},target=/x true #{}\n", nonce());
    let of_argument =
        format!("ARG WHAT=none\nFROM {}/$WHAT\nCOPY Dockerfile /{}\n", town.registry.address(), nonce());
    let argument = format!("WHAT=api/secret@{digest}");
    let context = format!("base=docker-image://{by_digest}");
    for (dockerfile, args) in [
        (derived(&by_digest), &[][..]),
        (derived(&with_tag), &[]),
        (derived(&in_capitals), &[]),
        (derived(&format!("{secret}:1")), &[]),
        (copied, &[]),
        (mounted, &[]),
        (of_argument, &["--build-arg", &argument]),
        (derived("base"), &["--build-context", &context]),
    ] {
        let output = town.build("web", &dockerfile, args);
        town.is_kept_out(&secret, &output);
    }
    // Nor is it told what the image says of itself.
    let checked = town.build("web", &derived(&by_digest), &["--check"]);
    assert_eq!(checked.status, 1, "{checked:?}");
    says(&format!("{checked:?}"), &[&format!("farm project allow web --pull {secret}")]);
    // What a base image of its own asks for in its place.
    let (onbuild, triggered) = (town.image("web/onbuild:1"), nonce());
    let dockerfile = format!("FROM {BASE}\nONBUILD COPY --from={by_digest} / /x/{triggered}\n");
    town.build("web", &dockerfile, &["-t", &onbuild]).ok();
    town.is_kept_out(&secret, &town.build("web", &derived(&onbuild), &[]));
    // One that isn't there reads the same.
    let nothing = format!("{}@{digest}", town.image("api/nothing"));
    town.is_kept_out(&town.image("api/nothing"), &town.build("web", &derived(&nothing), &[]));

    // Under the name of one that it may read, and of another registry on the same host: the engine tells those apart by their
    // host's name only.
    for name in [town.image("web/own"), town.image("public/os"), "localhost:5002/api/secret".to_owned()] {
        let output = town.build("web", &derived(&format!("{name}@{digest}")), &[]);
        let failure = town.failure(&output);
        assert_eq!(failure["code"], "base_image_missing", "{name} {failure:#}");
    }

    // Also if that one has something there that everybody may read: no more than what was asked about is opened.
    let beside = "localhost:5002/api/secret:1";
    let own = format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce());
    town.build("default", &own, &["-t", beside]).ok();
    town.build("web", &derived(beside), &[]).ok();
    for name in [format!("localhost:5002/api/secret@{digest}"), format!("{beside}@{digest}")] {
        let failure = town.failure(&town.build("web", &derived(&name), &[]));
        assert_eq!(failure["code"], "base_image_missing", "{name} {failure:#}");
    }

    // Once it may, it can; and whoever has nothing at this registry can't either.
    town.farm.cli(&["project", "allow", "web", "--pull", &secret]).ok();
    town.build("web", &derived(&by_digest), &[]).ok();
    town.farm.cli(&["project", "deny", "web", "--pull", &secret]).ok();
    town.farm.cli(&["project", "deny", "web", "--push", &town.image("web")]).ok();
    town.farm.cli(&["project", "allow", "web", "--push", "localhost:5002/web"]).ok();
    town.is_kept_out(&secret, &town.build("web", &derived(&by_digest), &[]));
}

#[test]
fn its_own_images_and_everybodys_go_by_tag_and_by_digest_and_are_looked_up_once() {
    let town = Town::start();
    town.build("web", &derived(&town.by_digest("web/own")), &[]).ok();
    town.build("web", &derived(&town.image("web/own:1")), &["--check"]).ok();
    assert_eq!(town.looks("public/os") + town.looks("public/tools"), 0);
    // A check looks at stages, too, that no build needs, and tells of those in its answer.
    let lint = format!("FROM {} AS unneeded\nFROM {BASE}\nCOPY Dockerfile /x\n", town.image("public/lint:1"));
    town.build("web", &lint, &["--check"]).ok();
    let closed = lint.replace("public/lint", "api/secret");
    let checked = town.build("web", &closed, &["--check"]);
    assert_eq!(checked.status, 1, "{checked:?}");
    says(&format!("{checked:?}"), &[&format!("farm project allow web --pull {}", town.image("api/secret"))]);

    // Two that nobody knows yet, in one build.
    let (os, tools) = (town.by_digest("public/os"), town.image("public/tools:1"));
    let both = || format!("FROM {os} AS os\nFROM {tools}\nCOPY --from=os / /x/{}\n", nonce());
    let told = town.build("web", &both(), &["-t", &town.image("web/app:1")]).ok();
    // By the coordinator, and where there was a tag by the engine, for a token of its own.
    assert_eq!((town.looks("public/os"), town.looks("public/tools")), (1, 2));
    // What was read before it was known isn't told twice, nor as if it had failed.
    assert!(!told.contains("stopped after") && !told.contains("failed"), "{told}");

    for from in [town.image("public/os:1"), os.clone()] {
        town.build("web", &derived(&from), &["-t", &town.image("web/app:1")]).ok();
    }
    town.build("web", &both(), &["-t", &town.image("web/app:1")]).ok();
    assert_eq!(town.looks("public/tools"), 2);

    // A tag that isn't there is told as such.
    let output = town.build("web", &derived(&town.image("public/os:2")), &[]);
    let failure = town.failure(&output);
    assert_eq!(failure["code"], "base_image_missing", "{failure:#}");
    let output = town.build("web", &derived(&town.image("public/new:2")), &[]);
    let failure = town.failure(&output);
    assert_eq!(failure["code"], "base_image_missing", "{failure:#}");
    says(failure["message"].as_str().unwrap(), &[&town.image("public/new:2"), "not found"]);
}

#[test]
fn what_a_project_is_allowed_at_a_registry_beside_goes_without_a_look() {
    // Of the one beside the coordinator knows nothing, so it sends no requests there.
    let town = Town::of(Farm::builder().guarded());
    let beside = PrivateRegistry::start();
    let base = format!("{}/team/base", beside.address());
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    run(copy.args([format!("docker://{BASE}"), format!("docker://{base}:1")]));
    let refused = town.build("web", &derived(&format!("{base}:1")), &[]);
    assert_eq!(town.failure(&refused)["code"], "registry_auth");

    let stored = raw(&format!("{base}:1")).unwrap();
    for allowed in [&base, &beside.address()] {
        town.farm.cli(&["project", "allow", "web", "--pull", allowed]).ok();
        for name in [format!("{base}:1"), format!("{base}@{}", digest_of(&stored))] {
            town.build("web", &derived(&name), &[]).ok();
        }
        town.farm.cli(&["project", "deny", "web", "--pull", allowed]).ok();
    }
}
