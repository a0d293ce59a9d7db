"""Commands that must fail as promised: one clear line on stderr, exit code 2, and nothing left behind."""

import importlib
import logging

COMMANDS = {
    "vae": "train_motion_vae",
    "low": "train_lowlevel",
    "high": "train_highlevel",
    "simulate": "simulate",
    "evaluate": "evaluate_motion_vae",
    "compare": "compare",
    "stack": "evaluate_stack",
    "prepare": "prepare_motions",
    "pack": "pack_bundle",
    "benchmark": "benchmark",
    "doctor": "doctor",
    "motionlex": "main",
}
"""Short names of the commands and their modules."""


def failing(work, capfd):
    """A function that calls a command in the present, empty folder ``work`` and returns its line."""

    def call(command, *arguments, progress=False):
        logging.getLogger().handlers.clear()  # those of earlier tests write to streams that are closed by now
        main = importlib.import_module(f"motionlex.scripts.{COMMANDS[command]}").main
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        lines = err.strip().splitlines()
        assert code == 2, (code, err)
        assert progress or len(lines) == 1, err
        assert ": error: " in lines[-1] and "Traceback" not in err
        assert out == "" and list(work.iterdir()) == []
        return lines[-1]

    return call
