//! What a user allows: projects that scenes read, scenes whose Python runs, add-ons, variables.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::{Blender, Ended, PROGRAM, Render, blenders, command, files_below, installed, root};

/// A user with a data directory and a configuration of his own.
struct User {
    folder: TempDir,
}

impl User {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = Self { folder };
        fs::create_dir_all(user.path("config/hotshoe")).unwrap();
        fs::create_dir(user.path("marks")).unwrap();
        fs::write(user.path("config/hotshoe/config.toml"), config).unwrap();
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Ended {
        let mut run = command(PROGRAM);
        let output = run.args(args).env("HOTSHOE_DATA", self.path("data")).output().unwrap();
        Ended::from(output)
    }

    fn render(&self, blender: &Blender, scene: &Path, args: &[&str]) -> Render {
        let mut render = Render::with(blender, scene).args(["--alone", "--frames", "1"]).args(args);
        render.command.env("HOTSHOE_DATA", self.path("data"));
        render.command.env("XDG_CONFIG_HOME", self.path("config")).env("BLENDER_MARKS", self.path("marks"));
        render
    }

    /// Takes the marks that something has left.
    fn marks(&self) -> Vec<String> {
        let marks = files_below(&self.path("marks"));
        marks.iter().for_each(|mark| fs::remove_file(self.path("marks").join(mark)).unwrap());
        marks
    }
}

#[test]
fn the_python_of_a_scene_runs_only_while_it_is_trusted() {
    for blender in blenders() {
        let user = User::new("");
        let scene = user.path("rig.blend");
        fs::copy(blender.scene("scripts"), &scene).unwrap();
        let path = scene.to_str().unwrap();
        // Outside of the sandbox, where what runs can leave a mark.
        let render = || user.render(&blender, &scene, &["--sandbox", "off"]).run().expect(0);
        assert!(render().stderr.contains("kept from running") && user.marks().is_empty());
        user.run(&["scene", "trust", path]).expect(0);
        assert!(!render().stderr.contains("kept from running"));
        assert!(!user.marks().is_empty());
        assert!(user.run(&["scene", "list"]).expect(0).stdout.contains("trusted"));
        // Other bytes are another scene.
        let mut bytes = fs::read(&scene).unwrap();
        bytes.extend(b"more");
        fs::write(&scene, bytes).unwrap();
        assert!(user.run(&["scene", "list"]).expect(0).stdout.contains("changed since"));
        assert!(render().stderr.contains("kept from running") && user.marks().is_empty());
        // A folder is trusted whatever is in it.
        user.run(&["scene", "trust", "--project", user.folder.path().to_str().unwrap()]).expect(0);
        render();
        assert!(!user.marks().is_empty());
        user.run(&["scene", "revoke", user.folder.path().to_str().unwrap()]).expect(0);
        render();
        assert!(user.marks().is_empty());
        let refused = user.run(&["scene", "revoke", "/no/such"]).expect(2);
        assert!(refused.stderr.contains("was not trusted"), "{refused:?}");
    }
}

#[test]
fn an_operator_can_forbid_all_python() {
    let (blender, user) = (installed(), User::new("[workers]\ntrust = \"never\"\n"));
    let scene = user.path("rig.blend");
    fs::copy(blender.scene("scripts"), &scene).unwrap();
    user.run(&["scene", "trust", scene.to_str().unwrap()]).expect(0);
    let told = user.render(&blender, &scene, &["--sandbox", "off"]).run().expect(0);
    assert!(told.stderr.contains("kept from running") && user.marks().is_empty(), "{told:?}");
}

#[test]
fn a_project_that_is_allowed_is_read_by_all_its_scenes() {
    let (blender, user) = (installed(), User::new(""));
    let (project, picture) = (user.path("film"), root().join("docs/images/contact-sheet.png"));
    fs::create_dir_all(project.join("shots")).unwrap();
    let scene = project.join("shots/scene.blend");
    fs::copy(blender.scene("outside_project"), &scene).unwrap();
    fs::create_dir(project.join("textures")).unwrap();
    fs::copy(&picture, project.join("textures/parent.png")).unwrap();
    let allow = format!("hotshoe project allow {}", project.display());
    user.render(&blender, &scene, &[]).run().expect(3).tells(&["textures/parent.png", &allow]);
    user.run(&["project", "allow", project.to_str().unwrap()]).expect(0);
    user.render(&blender, &scene, &["--strict"]).run().expect(0);
    assert!(user.run(&["project", "list"]).expect(0).stdout.contains("film"));
    user.run(&["project", "forget", project.to_str().unwrap()]).expect(0);
    user.render(&blender, &scene, &[]).run().expect(3);
    let refused = user.run(&["project", "allow", "/"]).expect(2);
    assert!(refused.stderr.contains("more than a project"), "{refused:?}");
}

#[test]
fn add_ons_are_enabled_and_workers_know_only_some_variables() {
    let addon = "import os\n\nbl_info = {'name': 'Marking', 'blender': (3, 4, 0), 'category': 'Render'}\n\ndef register():\n    path = os.environ['BLENDER_MARKS'] + '/variables'\n    \
                 open(path, 'w').write('\\n'.join(os.environ))\n\ndef unregister():\n    pass\n";
    for blender in blenders() {
        let config = |folder: &Path, names: &str| {
            format!(
                "[workers]\nenvironment = [\"SITE_LICENCE\"]\n[blender]\naddons = [{names}]\naddons_folder = {folder:?}\n"
            )
        };
        let user = User::new("");
        let folder = user.path("addons");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("marking.py"), addon).unwrap();
        let file = user.path("config/hotshoe/config.toml");
        fs::write(&file, config(&folder, "\"marking\"")).unwrap();
        let scene = blender.scene("small");
        let mut render = user.render(&blender, &scene, &["--sandbox", "off"]);
        render.command.env("SITE_LICENCE", "1").env("SITE_TOKEN", "2").env("PYTHONPATH", "/none");
        render.run().expect(0);
        let known = fs::read_to_string(user.path("marks/variables")).unwrap();
        let knows = |name: &str| known.lines().any(|line| line == name);
        assert!(knows("PATH") && knows("SITE_LICENCE"), "{known}");
        assert!(!knows("SITE_TOKEN") && !knows("PYTHONPATH") && !knows("HOTSHOE_DATA"), "{known}");
        fs::write(&file, config(&folder, "\"absent\"")).unwrap();
        let told = user.render(&blender, &scene, &[]).run();
        assert!(told.stderr.contains("the add-on 'absent' of blender.addons cannot be enabled"), "{told:?}");
        assert_ne!(told.code, Some(0));
    }
}

#[test]
fn one_scene_of_a_file_is_rendered_and_its_own_range() {
    for blender in blenders() {
        let temp = tempfile::tempdir().unwrap();
        let script = root().join("tests/fixtures/matrix.py");
        let made = blender.python(&script).arg("--").arg(temp.path()).arg("several_scenes").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let scene = temp.path().join("several_scenes/scene.blend");
        let render = |args: &[&str]| {
            let mut render = Render::with(&blender, &scene).args(["--alone"]).args(args);
            (render.run().expect(0), render.files())
        };
        let names =
            |prefix: &str| (1..=4).map(|frame| format!("{prefix}_{frame:04}.png")).collect::<Vec<_>>();
        assert_eq!(render(&["-S", "Second"]).1, names("second"));
        assert_eq!(render(&["-S", "Scene"]).1, names("f"));
        assert_eq!(render(&["--set", "scene=Scene", "-f", "2..3"]).1, names("f")[1..3]);
        let mut refused = Render::with(&blender, &scene).args(["--alone", "-S", "Third"]);
        refused.run().expect(2).tells(&["the file has no scene 'Third'", "Second'"]);
    }
}
