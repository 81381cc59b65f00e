"""Check that no file in the working directory shadows a module of the standard library or of another package.

`python -m` puts the working directory first on `sys.path`, so that every library that imports `random` would import a
file random.py in the working directory. Child processes are not affected; see `processes.python_command`.

This module imports only modules that the interpreter loads at startup, because any other import might be shadowed.
"""

import _imp
import os
import sys

TYPE_CHECKING = False  # recognised by type checkers; `typing` is not loaded yet
if TYPE_CHECKING:
    from types import ModuleType

# Top-level modules that the commands import; `tests/runtime/test_shadowing.py` checks the list.
NEEDED = frozenset(
    """
    __future__ argparse array ast asyncio base64 bdb binascii bisect bz2 calendar cmath cmd code codeop collections
    colorsys concurrent configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal
    difflib dis email enum fcntl fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib
    grp gzip hashlib heapq hmac html http inspect ipaddress json keyword linecache locale logging lzma math
    mimetypes mmap multiprocessing netrc numbers opcode operator pathlib pdb pickle pkgutil platform plistlib pprint
    pydoc pyexpat queue quopri random re reprlib resource secrets select selectors shlex shutil signal socket
    socketserver sqlite3 ssl statistics string stringprep struct subprocess sysconfig tarfile tempfile termios
    textwrap threading timeit token tokenize tomllib traceback tracemalloc types typing unicodedata unittest urllib
    uuid warnings weakref xml zipfile zlib zoneinfo

    IPython PIL absl alembic annotated_doc annotated_types anyio astunparse attr attrs cachetools certifi
    charset_normalizer click cloudpickle cmaes colorama colorlog contourpy cryptography cv2 cycler databricks
    dateutil fastapi filelock flatbuffers fontTools fsspec gast git gitdb google grpc h11 h5py hf_xet httpcore2
    httpx2 huggingface_hub idna imagecodecs importlib_metadata jax jaxlib joblib jsonschema
    jsonschema_specifications keras keras_tuner kiwisolver kt_legacy mako markupsafe matplotlib ml_dtypes mlflow
    mpl_toolkits msgpack namex narwhals numpy onnx onnxruntime opentelemetry openvino openvino_telemetry opt_einsum
    optree optuna packaging pandas platformdirs psutil psycopg psycopg_binary pyarrow pydantic pydantic_core
    pygments pyparsing ray referencing requests rich rpds safetensors scipy shellingham six sklearn smmap sniffio
    sqlalchemy sqlparse starlette tensorflow termcolor threadpoolctl tifffile tqdm traitlets truststore typer
    typing_extensions typing_inspection urllib3 wcwidth wrapt yaml zipp
    """.split()  # noqa: SIM905
)
_SUFFIXES = (".py", ".pyc", *_imp.extension_suffixes())


def check() -> None:
    """Exit with a message and exit code 2 if a file in the working directory shadows a module that the command needs.

    The function does nothing unless the process was started with `python -m bhsearch...`; in all other cases, the
    caller controls `sys.path`.
    """
    if sys.argv[:1] != ["-m"] or not any("bhsearch" in word for word in sys.orig_argv):
        return
    try:
        found = shadowing_files(os.getcwd(), sys.path, sys.modules)
    except OSError:  # files in a deleted or unreadable folder cannot be imported
        return
    if found:
        shown = "\n".join(f"  {path}" for path in found)
        sys.stderr.write(
            "error: The working directory must not contain files that shadow modules of "
            f"this command, but got:\n{shown}\nRename them, or start the command in another folder.\n"
        )
        sys.exit(2)


def shadowing_files(folder: str, path: list[str], modules: "dict[str, ModuleType]") -> list[str]:
    """Return the paths of files and packages in a folder that shadow a module in `NEEDED`.

    Args:
        folder: Working directory.
        path: Folders in which modules are searched, in order; see `sys.path`.
        modules: Loaded modules by name; see `sys.modules`.

    Returns:
        Paths in alphabetical order; empty if the folder does not precede the standard library in `path`.

    Raises:
        OSError: If the folder cannot be read.
    """
    standard = os.path.dirname(os.__file__)
    first = path[: path.index(standard)] if standard in path else path[:1]
    if folder not in [entry or folder for entry in first]:
        return []
    others = [entry for entry in path if entry and not _same(entry, folder)]
    found = []
    for name in sorted(os.listdir(folder)):
        module, file = name.partition(".")[0], os.path.join(folder, name)
        if not _is_needed(module) or not _is_module(file):
            continue
        origin = getattr(modules.get(module), "__file__", None)
        if module in modules and (origin is None or not _same(os.path.dirname(origin), folder)):
            continue  # the module was loaded before this folder was added to the path
        if any(_is_module(os.path.join(entry, module + suffix)) for entry in others for suffix in ("", *_SUFFIXES)):
            found.append(file)
    return found


def _is_needed(module: str) -> bool:
    return module in NEEDED or (module.startswith("_") and module in sys.stdlib_module_names)


def _is_module(path: str) -> bool:
    """Return whether a path is an importable file or package.

    A folder without `__init__` is not counted, because it does not shadow modules later on the path.
    """
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, "__init__" + suffix)) for suffix in _SUFFIXES)
    name = os.path.basename(path)
    return name.partition(".")[2] in [suffix[1:] for suffix in _SUFFIXES] and os.path.isfile(path)


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
