"""Holds tools/check-layers and tools/check-tracing to what they promise: each breach, put into a small
sample tree of its own, must be found and named; the sample without it must pass."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

SAMPLE = {
    'tools/layers.txt': 'base\nwire   base\nengine base\napp engine wire+\n',
    'include/handover/base/a.h': '#pragma once\n',
    'include/handover/wire/w.h': '#pragma once\n#include "handover/base/a.h"\n',
    'src/wire/private.h': '#pragma once\n',
    'src/wire/w.cpp': '#include "handover/wire/w.h"\n#include "wire/private.h"\n',
    'src/engine/e.h': '#pragma once\n',
    'src/app/main.cpp': '#include <vector>\n#include "engine/e.h"\n#include "handover/wire/w.h"\n',
}


def run(tool, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, TOOLS / tool, folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr


class CheckLayers(unittest.TestCase):
    def expect(self, words, files):
        code, errors = run('check-layers', SAMPLE | files)
        self.assertEqual(code, 1, errors)
        self.assertEqual(len(errors.splitlines()), 1, errors)
        self.assertIn(words, errors)

    def test_a_sound_tree_passes(self):
        self.assertEqual(run('check-layers', SAMPLE), (0, ''))

    def test_an_upward_include_is_named(self):
        self.expect('src/base/a.cpp:1: base may not include engine ("engine/e.h")',
                    files={'src/base/a.cpp': '#include "engine/e.h"\n'})

    def test_a_sideways_include_is_named(self):
        self.expect('src/engine/e.cpp:1: engine may not include wire ("handover/wire/w.h")',
                    files={'src/engine/e.cpp': '#include "handover/wire/w.h"\n'})

    def test_anothers_private_header_is_named(self):
        self.expect('src/app/x.cpp:1: "wire/private.h" is private to wire',
                    files={'src/app/x.cpp': '#include "wire/private.h"\n'})

    def test_a_public_header_may_not_include_a_private_one(self):
        self.expect('a public header includes "wire/private.h"',
                    files={'include/handover/wire/v.h': '#pragma once\n#include "wire/private.h"\n'})

    def test_a_circle_is_named(self):
        self.expect('src/engine/e.h > src/engine/f.h > src/engine/e.h',
                    files={'src/engine/e.h': '#pragma once\n#include "engine/f.h"\n',
                           'src/engine/f.h': '#pragma once\n#include "engine/e.h"\n'})

    def test_a_missing_pragma_once_is_named(self):
        self.expect('src/engine/e.h:1: has no #pragma once', files={'src/engine/e.h': 'int x;\n'})

    def test_a_file_that_is_too_long_is_named(self):
        self.expect('tests/long_test.cpp:601: has 601 lines', files={'tests/long_test.cpp': '//\n' * 601})
        self.assertEqual(run('check-layers', SAMPLE | {'tests/long_test.cpp': '//\n' * 600})[0], 0)

    def test_a_part_may_be_allowed_without_its_folder(self):
        tree = SAMPLE | {'src/engine/part.h': '#pragma once\n',
                         'tools/layers.txt': 'base\nengine/part.h\nwire engine/part.h base\nengine base\napp engine wire+\n',
                         'src/wire/x.cpp': '#include "engine/part.h"\n'}
        self.assertEqual(run('check-layers', tree), (0, ''))
        code, errors = run('check-layers', tree | {'src/wire/x.cpp': '#include "engine/e.h"\n'})
        self.assertEqual((code, errors), (1, 'src/wire/x.cpp:1: wire may not include engine ("engine/e.h")\n'))

    def test_a_table_out_of_order_is_refused(self):
        code, errors = run('check-layers', SAMPLE | {'tools/layers.txt': 'wire base\nbase\n'})
        self.assertEqual(code, 1)
        self.assertIn('base is not listed above wire', errors)

    def test_an_unknown_module_is_named(self):
        self.expect('src/other/o.cpp:1: belongs to no module', files={'src/other/o.cpp': '\n'})

    def test_an_include_of_nothing_is_named(self):
        self.expect('includes "engine/gone.h", which is not in the tree',
                    files={'src/engine/e.cpp': '#include "engine/gone.h"\n'})


class CheckTracing(unittest.TestCase):
    SOUND = {
        'src/a.cpp': 'HANDOVER_TRACE(stop, name().c_str(), f(1, 2));\nHANDOVER_TRACE(bare);\n',
        'include/x.h': '',
        'docs/tracing.md': '| `stop` | `who`, `count` | a stop |\n| `bare` | none | |\n',
    }

    def expect(self, words, files):
        code, errors = run('check-tracing', self.SOUND | files)
        self.assertEqual(code, 1, errors)
        self.assertIn(words, errors)

    def test_a_true_page_passes(self):
        self.assertEqual(run('check-tracing', self.SOUND), (0, ''))

    def test_a_point_that_is_not_listed_is_named(self):
        self.expect('src/b.cpp:1: late is not listed', {'src/b.cpp': 'HANDOVER_TRACE(late, 1);\n'})

    def test_a_row_without_a_point_is_named(self):
        self.expect('stop is no trace point', {'src/a.cpp': 'HANDOVER_TRACE(bare);\n'})

    def test_a_wrong_number_of_arguments_is_named(self):
        self.expect('stop has 1 arguments, docs/tracing.md names 2',
                    {'src/a.cpp': 'HANDOVER_TRACE(stop, 1);\nHANDOVER_TRACE(bare);\n'})


if __name__ == '__main__':
    unittest.main()
