//! Bad input: one line of what, one of what to do, exit code 2, nothing rendered.

use std::path::Path;

use crate::harness::{Picture, Render, files_below, installed, on_path, probe};

/// Fails unless the run is refused with these words and leaves no picture.
#[track_caller]
fn refused(mut render: Render, parts: &[&str]) {
    let ended = render.run().expect(2).tells(parts);
    let mut error = ended.stderr.lines().skip_while(|line| !line.starts_with("error: "));
    assert!(error.nth(1).is_some(), "nothing says what to do: {ended:#?}");
    assert!(render.files().is_empty(), "{:?}", render.files());
}

fn small() -> Render {
    Render::new(&installed().scene("small"))
}

#[test]
fn frames_that_are_none() {
    for (frames, part) in [
        ("5-1", "runs backwards"),
        ("a-b", "is no frame"),
        ("1-10x-2", "step that is no positive number"),
        ("1-10x0", "step that is no positive number"),
        ("0-1048574", "more than 1000000 frames"),
        ("", "is no frame"),
    ] {
        refused(small().args([format!("--frames={frames}")]), &[part, "write frames as"]);
    }
}

#[test]
fn scenes_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let check = |scene: &Path, parts: &[&str]| refused(Render::new(scene).frames("1"), parts);
    check(&folder.path().join("nowhere.blend"), &["cannot read the scene", "check the path"]);
    check(folder.path(), &["cannot read the scene"]);
    check(&file("empty.blend", b""), &["not a .blend file", "give a scene saved by Blender"]);
    check(&file("text.blend", b"hello"), &["not a .blend file"]);
    check(&file("zipped.blend", &[0x1f, 0x8b, 8, 0, 1, 2]), &["not a .blend file"]);
    check(&file("zstd.blend", &[0x28, 0xb5, 0x2f, 0xfd, 9, 9]), &["not a .blend file"]);
    check(&file("newer.blend", b"BLENDER17-01v0999REND"), &["saved by Blender 9.99", "--blender PATH"]);
    let whole = std::fs::read(installed().scene("small")).unwrap();
    check(&file("cut.blend", &whole[..64]), &["Blender cannot load the scene", "save it again"]);
}

#[test]
fn a_scene_that_a_blender_cannot_denoise_fails_and_leaves_no_blank_pictures() {
    // Debian's is built without a denoiser; it fails once, and then leaves blank pictures.
    let Some(blender) = on_path() else { return eprintln!("not tested: no Blender on the PATH") };
    let folder = tempfile::tempdir().unwrap();
    let (scene, script) = (folder.path().join("denoised.blend"), folder.path().join("denoised.py"));
    let text = format!(
        "import bpy\n\
         scene = bpy.context.scene\n\
         scene.render.engine = 'CYCLES'\n\
         scene.cycles.samples = 4\n\
         scene.cycles.use_denoising = True\n\
         scene.render.resolution_x, scene.render.resolution_y = 64, 36\n\
         bpy.ops.wm.save_as_mainfile(filepath={scene:?})\n"
    );
    std::fs::write(&script, text).unwrap();
    assert!(blender.python(&script).output().unwrap().status.success() && scene.exists());
    let mut render = Render::with(&blender, &scene).frames("1-3");
    let ended = render.run();
    match ended.code {
        Some(0) => {
            let shows = |file: &String| Picture::read(&render.out().join(file)).shows_something();
            assert!(render.files().iter().all(shows), "{ended:?}");
        }
        _ => {
            ended.tells(&["the scene denoises, which this Blender cannot", "use another Blender"]);
            assert!(render.files().is_empty(), "{:?}", render.files());
        }
    }
}

#[test]
fn a_scene_of_a_newer_blender_is_not_given_to_an_older_one() {
    // Needs a Blender of the machine that is older than the one the tests install; Debian's is.
    let Some(older) = on_path().filter(|blender| blender.version() < installed().version()) else {
        return eprintln!("not tested: this machine has no older Blender");
    };
    let newer = installed().scene("small");
    refused(
        Render::with(&older, &newer).frames("1"),
        &["newer than this Blender", "hotshoe blender install"],
    );
}

#[test]
fn renderers_and_settings_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.wasm");
    std::fs::write(&garbage, b"\0asm garbage").unwrap();
    let with = |renderer: &str| small().frames("1").args(["--renderer", renderer]);
    refused(with("dirct"), &["no renderer 'dirct'", "did you mean 'direct'?"]);
    refused(with("./nowhere.wasm"), &["cannot read the plugin", "No such file"]);
    let load = small().frames("1").args(["--renderer"]).args([&garbage]).run().expect(2);
    load.tells(&["cannot load the plugin garbage", "no valid component"]);
    let set = |setting: &str| small().frames("1").args(["--set", setting]);
    refused(set("sampels=4"), &["no setting 'sampels'", "did you mean 'samples'?"]);
    refused(set("samples=many"), &["'samples' does not fit", "it takes an integer from 1 to 16777216"]);
    refused(set("samples=0"), &["'samples' does not fit"]);
    refused(set("engine=EEVE"), &["'engine' does not fit", "one of CYCLES, EEVEE, WORKBENCH"]);
    refused(set("samples"), &["'samples' is no setting", "--set name=value"]);
}

#[test]
fn settings_that_only_the_scene_can_refuse() {
    let set = |settings: &[&str]| small().frames("1").args(settings.iter().flat_map(|s| ["--set", s]));
    refused(set(&["camera=Nobody"]), &["no camera 'Nobody'", "it has 'Camera'"]);
    refused(set(&["view_layer=Nowhere"]), &["no view layer 'Nowhere'", "it has 'ViewLayer'"]);
    refused(
        set(&["engine=WORKBENCH", "samples=4"]),
        &["BLENDER_WORKBENCH has no setting 'samples'", "leave it out"],
    );
    let hidden_gpu = Render::new(&installed().scene("hidden_gpu")).frames("1").set("engine", "CYCLES");
    refused(hidden_gpu, &["asks for a GPU", "--device cpu"]);
}

#[test]
fn scenes_that_cannot_be_rendered_as_they_are() {
    let scene = |name: &str| Render::new(&installed().scene(name)).frames("1");
    refused(scene("no_camera"), &["the scene has no camera", "add one in Blender"]);
    refused(scene("gpu"), &["asks for a GPU", "--device cpu"]);
    refused(
        Render::new(&installed().scene("movie")).frames("1,3-4"),
        &["one range of frames", "--set file_format=PNG"],
    );
    refused(
        scene("small").args(["--movie", "a.gif"]),
        &["'a.gif' is not the name of a movie", "end in .mp4"],
    );
    refused(scene("small").args(["--movie", "/tmp/a.mp4"]), &["--movie names another", "--movie a.mp4"]);
    let layers = scene("small").set("file_format", "OPEN_EXR_MULTILAYER").args(["--movie", "a.mp4"]);
    refused(layers, &["no movie of OPEN_EXR_MULTILAYER", "file_format=OPEN_EXR"]);
    scene("movie").set("file_format", "PNG").run().expect(0);
    scene("gpu").args(["--device", "cpu"]).run().expect(0);
}

#[test]
fn folders_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let scene = installed().scene("small");
    let mut render = Render::new(&scene).frames("1");
    render.command.arg("--out").arg(file.join("below"));
    // The last --out counts; clap refuses two.
    let ended = render.run().expect(2);
    assert!(ended.stderr.contains("cannot be used multiple times"), "{ended:?}");
    let mut command = crate::harness::command(crate::harness::PROGRAM);
    command.arg("render").arg(&scene).args(["--frames", "1", "--out"]).arg(file.join("below"));
    let ended = crate::harness::Ended::from(command.output().unwrap());
    ended.expect(2).tells(&["cannot write to", "choose another folder with --out"]);
}

#[test]
fn blenders_that_do_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = folder.path().join(name);
        // By another process: what this one has open for writing, a test that forks at the
        // same time keeps open for a moment, and then it cannot be run.
        let mut write = crate::harness::command("sh");
        write.args(["-c", "printf %s \"$2\" > \"$1\" && chmod +x \"$1\"", "sh"]).arg(&path).arg(text);
        assert!(write.status().unwrap().success());
        path
    };
    let check = |path: &Path, parts: &[&str]| {
        let mut command = crate::harness::command(crate::harness::PROGRAM);
        command.arg("render").arg(installed().scene("small")).args(["--frames", "1", "--out"]);
        command.arg(folder.path().join("out")).arg("--blender").arg(path);
        crate::harness::Ended::from(command.output().unwrap()).expect(2).tells(parts);
    };
    check(&folder.path().join("none"), &["--blender names", "no program that can be run", "name a Blender"]);
    check(
        &script("crashes", "#!/bin/sh\necho cannot find libX.so.6\nkill -SEGV $$\n"),
        &["Blender does not start", "ended by SIGSEGV", "cannot find libX.so.6"],
    );
    check(&script("leaves", "#!/bin/sh\necho not today >&2\nexit 3\n"), &["exited with code 3", "not today"]);
    check(&script("dangles", "#!/no/such/interpreter\n"), &["Blender does not start", "cannot run"]);
}

#[test]
fn missing_files_are_a_warning_and_an_error_with_strict() {
    let scene = installed().scene("missing");
    Render::new(&scene).frames("1").run().expect(0).tells(&[
        "warning: missing file: ",
        "textures/lost.png",
        "libraries/lost.blend",
        "2 warnings stand above",
    ]);
    let strict = Render::new(&scene).frames("1").args(["--strict"]);
    refused(strict, &["misses 2 of its files", "--strict forbids"]);
}

#[test]
fn scripts_in_a_scene_do_not_run_and_are_named() {
    for blender in crate::harness::blenders() {
        let marks = tempfile::tempdir().unwrap();
        // What runs could leave its mark.
        let mut render =
            Render::with(&blender, &blender.scene("scripts")).frames("1").args(["--sandbox", "off"]);
        render.command.env("BLENDER_MARKS", marks.path());
        render.run().expect(0).tells(&[
            "kept from running: text block 'evil.py'",
            "kept from running: driver of location on 'Cube'",
            ".default_value on 'Material'",
            "kept from running: style module 'style.py' of view layer 'ViewLayer'",
        ]);
        assert!(files_below(marks.path()).is_empty());
    }
}

#[test]
fn plans_that_break_the_contract() {
    let check = |act: &str, part: &str| {
        let mut render = Render::probe(act).frames("1-3");
        render.run().expect(1).tells(&[part]);
        assert!(render.files().is_empty());
    };
    assert!(probe().exists());
    check("plan_twins", "the plan has two tasks named a");
    check("plan_unknown", "task a depends on b, which is not an earlier task");
    check("plan_in_circles", "returned the same cursor twice");
    check("plan_panic", "the plugin panicked: no plan today");
    check("plan_many", "a page of a plan has at most 4096 tasks, not 4097");
}
