//! Prints the CustomResourceDefinition as YAML.

use kube::CustomResourceExt;

#[expect(clippy::print_stdout, reason = "printing is this program's purpose")]
fn main() -> Result<(), serde_saphyr::ser::Error> {
    print!(
        "{}",
        serde_saphyr::to_string(&zimage_crds::ZImageDeployment::crd())?
    );
    Ok(())
}
