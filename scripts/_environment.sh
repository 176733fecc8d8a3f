# Sourced by scripts/demo, scripts/test and scripts/check: makes .venv, or reuses it.
# A stamp of the Python version and of everything that decides what is installed tells whether
# .venv is current. ROBUSTLAB_PYTHON names the interpreter to build it with.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local candidate
    for candidate in ${ROBUSTLAB_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "robustlab needs Python 3.11 or newer with the venv module; none was found." >&2
    return 1
}

python=$(find_python) || exit 2
stamp=$({ "$python" -VV; pwd; cat pyproject.toml constraints.txt; } | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/robustlab-stamp 2>/dev/null)" = "$stamp" ]; then
    echo "== using the environment in .venv" >&2
else
    echo "== making .venv with $("$python" --version), pinned by constraints.txt (some minutes)" >&2
    rm -rf .venv
    "$python" -m venv .venv || exit 1
    # torch first: with it in place no other package's range can pull in another build.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt torch || exit 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable '.[test]' || exit 1
    echo "$stamp" > .venv/robustlab-stamp
fi
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false
# Nothing below needs the network, and nothing may use it without being asked.
export HF_HUB_OFFLINE=1
