"""Rules for what genrule cannot say: whole folders as outputs, exact environments."""

def _folder_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [out],
        inputs = ctx.files.srcs,
        command = "set -eu; out=$PWD/$1; shift; " + ctx.attr.cmd,
        arguments = [out.path] + [f.path for f in ctx.files.srcs],
        mnemonic = "Folder",
    )
    return [DefaultInfo(files = depset([out]))]

# A tree artifact, filled by the command, which gets its absolute path as $out and the inputs as arguments.
folder = rule(
    implementation = _folder_impl,
    attrs = {
        "cmd": attr.string(mandatory = True),
        "srcs": attr.label_list(allow_files = True),
    },
)

def _bare_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        outputs = [out],
        command = ctx.attr.cmd,
        arguments = [out.path],
        env = ctx.attr.env,
        mnemonic = "Bare",
    )
    return [DefaultInfo(files = depset([out]))]

# An action without any input, with the environment that is given and no other.
bare = rule(
    implementation = _bare_impl,
    attrs = {
        "cmd": attr.string(mandatory = True),
        "env": attr.string_dict(),
    },
)
