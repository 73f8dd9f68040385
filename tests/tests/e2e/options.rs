//! Flags of `farm submit` mean what they mean to `docker buildx build`.

use std::process::Command;

use farm_tests::farm::output;

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

#[test]
fn arguments_labels_and_target_are_in_the_image_of_every_platform() {
    let farm = small_farm();
    let repository = repository("options");
    let dockerfile = format!(
        "FROM {BASE} AS base\nARG GIVEN=default\nARG FROM_ENV\nARG ABSENT=default\n\
         RUN echo \"args $GIVEN $FROM_ENV $ABSENT\"\n\
         FROM base AS wanted\nLABEL own=1 both=file\n\
         FROM base AS last\nRUN echo not wanted && exit 1\n"
    );
    let context = Context::new(&dockerfile);
    let given = format!("given {}", nonce());
    let tags = [format!("{repository}:1"), format!("{repository}:latest"), format!("{repository}/other:1")];
    let given_arg = format!("GIVEN={given}");
    let mut args =
        vec!["submit", context.text(), "--platform", "linux/amd64,linux/arm64", "--target", "wanted"];
    args.extend(["--build-arg", &given_arg, "--build-arg", "FROM_ENV", "--build-arg", "ABSENT"]);
    args.extend(["--label", "org.example.x=a b=c", "--label", "both=flag"]);
    for tag in &tags {
        args.extend(["-t", tag]);
    }
    let mut command = farm.command(&args);
    let stdout = output(command.env("FROM_ENV", "env").env_remove("ABSENT")).ok();
    says(
        &stdout,
        &[
            &format!("linux/amd64 | args {given} env default"),
            &format!("linux/arm64 | args {given} env default"),
        ],
    );
    // Several tags in two repositories: one index.
    let stored = raw(&tags[0]).unwrap();
    for tag in &tags {
        assert_eq!(raw(tag).as_ref(), Some(&stored), "{tag}");
        says(&stdout, &[&format!("published  {tag}")]);
    }
    for architecture in ["amd64", "arm64"] {
        let labels = &config(&tags[2], architecture)["config"]["Labels"];
        assert_eq!(
            (&labels["own"], &labels["org.example.x"], &labels["both"]),
            (&"1".into(), &"a b=c".into(), &"flag".into()),
            "{labels:#}"
        );
    }
}

#[test]
fn no_cache_runs_a_step_again() {
    let farm = small_farm();
    let context =
        Context::new(&format!("FROM {BASE}\nRUN echo {n}; cat /proc/sys/kernel/random/uuid\n", n = nonce()));
    let run = |args: &[&str]| {
        let stdout = submit(&farm, &context, &[&AMD64[..], args].concat()).ok();
        let lines: Vec<_> = stdout.lines().filter(|line| line.contains(" | ")).map(str::to_owned).collect();
        (lines, stdout)
    };
    let (first, _) = run(&[]);
    assert_eq!(first.len(), 2, "{first:?}");
    let (cached, stdout) = run(&[]);
    assert!(cached.is_empty(), "{stdout}");
    says(&stdout, &["RUN echo", "CACHED"]);
    let (again, stdout) = run(&["--no-cache", "--pull"]);
    assert_eq!(again.len(), 2, "{stdout}");
    assert_ne!(again, first);
}

#[test]
fn named_contexts_are_folders_or_images() {
    let farm = small_farm();
    let library = Context::empty().file("lib.txt", format!("from a folder {}", nonce()));
    let base = format!("{}:1", repository("named"));
    let made = Context::new("FROM scratch\nCOPY made.txt /\n")
        .file("made.txt", format!("from an image {}", nonce()));
    submit(&farm, &made, &["-t", &base, "--platform", "linux/amd64,linux/arm64"]).ok();
    let context = Context::new(&format!(
        "FROM {BASE}\nCOPY --from=library lib.txt /\nCOPY --from=other made.txt /\nRUN cat /lib.txt; echo; cat /made.txt\n"
    ));
    let folder = format!("library={}", library.text());
    let image = format!("other=docker-image://{base}");
    let args =
        ["--build-context", &folder, "--build-context", &image, "--platform", "linux/amd64,linux/arm64"];
    let stdout = submit(&farm, &context, &args).ok();
    for platform in ["linux/amd64", "linux/arm64"] {
        says(&stdout, &[&format!("{platform} | from a folder"), &format!("{platform} | from an image")]);
    }
}

#[test]
fn provenance_stands_beside_each_platform_in_one_flat_index() {
    let farm = small_farm();
    let repository = repository("provenance");
    let tag = format!("{repository}:1");
    let context = Context::new(&format!("FROM {BASE}\nLABEL n={}\n", nonce()));
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--provenance=mode=max"];
    let stdout = submit(&farm, &context, &args).ok();
    says(&stdout, &["(2 platforms)"]);
    let index = index(&tag);
    let manifests = index["manifests"].as_array().unwrap();
    let platforms: Vec<_> = manifests
        .iter()
        .map(|m| {
            assert_eq!(m["mediaType"], "application/vnd.oci.image.manifest.v1+json", "{index:#}");
            let platform = &m["platform"];
            format!("{}/{}", platform["os"].as_str().unwrap(), platform["architecture"].as_str().unwrap())
        })
        .collect();
    assert_eq!(platforms.iter().filter(|p| *p == "unknown/unknown").count(), 2, "{index:#}");
    assert!(
        ["linux/amd64", "linux/arm64"].iter().all(|p| platforms.contains(&(*p).to_owned())),
        "{platforms:?}"
    );
    for attestation in manifests.iter().filter(|m| m["platform"]["os"] == "unknown") {
        let annotations = &attestation["annotations"];
        assert_eq!(annotations["vnd.docker.reference.type"], "attestation-manifest");
        let of = &annotations["vnd.docker.reference.digest"];
        assert!(manifests.iter().any(|m| m["digest"] == *of), "{index:#}");
        let manifest = raw(&format!("{repository}@{}", attestation["digest"].as_str().unwrap())).unwrap();
        says(&manifest, &["https://slsa.dev/provenance/"]);
    }
    // Docker's own tools read it.
    let mut inspect = Command::new("docker");
    inspect.args(["buildx", "imagetools", "inspect", &tag]);
    says(&output(&mut inspect).ok(), &["linux/amd64", "linux/arm64", "attestation-manifest"]);
}
