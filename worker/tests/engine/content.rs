//! What an engine has made can be read back, byte for byte, layers of the base image too.

use std::io::Read as _;

use farm_worker::buildkit::content::Unreadable;

use super::*;

async fn read(engine: &Engine, digest: &Digest) -> Result<Vec<u8>, Unreadable> {
    let mut reading = engine.read(digest).await?;
    let mut all = Vec::new();
    while let Some(piece) = reading.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn digest(descriptor: &serde_json::Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_was_pushed_is_read_from_the_engine_with_every_layer_that_a_step_has_touched() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let salt = fresh();
    // Long enough for several pieces, and incompressible.
    let random: String = (0..200_000).map(|_| fresh()).collect();
    let text = format!("{}\nCOPY a random /\nRUN echo {salt} > /b\n", from());
    for provenance in [Provenance::Off, Provenance::Min] {
        let mut solve = solve(&text, memory([("a", salt.as_str()), ("random", random.as_str())]));
        solve.provenance = provenance;
        let repository = format!("{}/farm/content", registry());
        solve.export = export(&[&repository]);
        let solved = run(&engine, solve).await.0.unwrap();
        let pushed = read(&engine, &solved.digest.unwrap()).await.unwrap();
        assert_eq!(Digest::of(&pushed), solved.digest.unwrap());
        let mut manifest: serde_json::Value = serde_json::from_slice(&pushed).unwrap();
        if provenance != Provenance::Off {
            let image = digest(&manifest["manifests"][0]);
            manifest = serde_json::from_slice(&read(&engine, &image).await.unwrap()).unwrap();
        }
        let config = read(&engine, &digest(&manifest["config"])).await.unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!((layers.len(), diff_ids.len()), (3, 3));
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let stored = read(&engine, &digest(layer)).await.unwrap();
            assert_eq!(Digest::of(&stored), digest(layer));
            let mut unpacked = Vec::new();
            flate2::read::MultiGzDecoder::new(&stored[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(Digest::of(&unpacked).to_string(), diff_id.as_str().unwrap());
        }
    }
    assert_eq!(read(&engine, &Digest::of(fresh().as_bytes())).await, Err(Unreadable::Absent));
}
