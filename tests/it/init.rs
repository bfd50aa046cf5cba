//! `pgprov init`.

use insta::assert_snapshot;

use crate::runner::Home;

#[test]
fn the_starting_topology_validates_and_is_called_like_its_file() {
    let home = Home::new();
    assert_snapshot!(home.run(&["init"]), @"
    exit 0
    -- stderr --
    Wrote lab.yaml. Next: pgprov validate lab.yaml, pgprov up lab.yaml
    ");
    let run = home.run(&["validate", "lab.yaml"]);
    assert_eq!(run.exit, 0, "{run}");
    for (file, lab) in
        [("shop.yaml", "shop"), ("My Lab-2.yml", "mylab2"), ("42.yaml", "lab"), ("für.yaml", "fr")]
    {
        let run = home.run(&["init", file, "-q"]);
        assert_eq!((run.exit, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{run}");
        assert!(home.read(file).contains(&format!("\nlab: {lab}\n")), "{file}");
        let run = home.run(&["validate", file]);
        assert_eq!(run.exit, 0, "{run}");
    }
}

#[test]
fn nothing_is_overwritten() {
    let home = Home::new();
    home.write("lab.yaml", "mine");
    assert_snapshot!(home.run(&["init"]), @"
    exit 1
    -- stderr --
    error: cannot write lab.yaml: File exists (os error 17)
    hint: give another name: pgprov init NAME.yaml
    ");
    assert_eq!(home.read("lab.yaml"), "mine");
    std::os::unix::fs::symlink("elsewhere.yaml", home.path("link.yaml")).unwrap();
    assert_eq!(home.run(&["init", "link.yaml"]).exit, 1);
    assert!(!home.path("elsewhere.yaml").exists());
}

#[test]
fn a_folder_that_is_not_there() {
    assert_snapshot!(Home::new().run(&["init", "no/such/lab.yaml"]), @"
    exit 1
    -- stderr --
    error: cannot write no/such/lab.yaml: No such file or directory (os error 2)
    hint: give another name: pgprov init NAME.yaml
    ");
}
