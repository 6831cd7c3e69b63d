//! The images under test. `images/assemble` gives each two names: its version, and one made of its content.

use anyhow::{Context, Result};
use zimage_tests::commands::bash;
use zimage_tests::repository;

/// Where `make test` assembles images.
const FOLDER: &str = "out/images";

/// The name made of the image's content, so that a cluster that has an older build of the version cannot run that.
pub(crate) fn by_content(image: &str) -> Result<String> {
    let path = repository::path(FOLDER).join(format!("{image}.name"));
    let name = std::fs::read_to_string(&path)
        .with_context(|| format!("no {}: run `make test`", path.display()))?;
    Ok(name.trim().to_owned())
}

/// The same image under the name of its version.
pub(crate) fn by_version(image: &str) -> String {
    format!("zimage-{image}:{}", env!("CARGO_PKG_VERSION"))
}

/// The part of an image's name after the colon.
pub(crate) fn tag(name: &str) -> &str {
    name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

/// Makes another image of one under test and lets the nodes have it. `change` is a script that changes the files in `$root`.
/// Returns the new image's name.
pub(crate) async fn variant(image: &str, tag: &str, change: &str) -> Result<String> {
    let make = r#"
        image=$1 tag=$2 change=$3
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        root=$work/root
        mkdir "$root"
        tar -xOf "out/images/$image.tar" ./layer.tar | tar -x -C "$root"
        eval "$change"
        images/archive "$root" "zimage-$image:$tag" 65532:65532 "$work/image.tar" "/usr/local/bin/zimage-$image"
        "$ZIMAGE_CLUSTER" load "$ZIMAGE_CLUSTER_NAME" "$work/image.tar" >&2
    "#;
    let name = bash(make, &[image, tag, change]).await?;
    Ok(name.trim().to_owned())
}
