package ruletest_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler/ruletest"
)

// Where a promtool is installed, it says of the shipped rules in standard PromQL what we
// do. "make test-clients" has Debian's in the path.
func TestPromtoolAgrees(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool")
	}
	for _, name := range []string{"web", "limits", "quipu"} {
		file := filepath.Join("../../../docs/rules", name+".yaml")
		tests := filepath.Join("../../../docs/rules", name+"_test.yaml")
		out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput()
		if _, _, ours := ruletest.Check(file, promql.NewParser()); err != nil || ours != nil {
			t.Errorf("%s: promtool: %v, ours: %v\n%s", file, err, ours, out)
		}
		out, err = exec.Command(promtool, "test", "rules", tests).CombinedOutput()
		if failed, ours := run(tests); err != nil || ours != nil || len(failed) > 0 {
			t.Errorf("%s: promtool: %v, ours: %v, %v\n%s", tests, err, failed, ours, out)
		}
	}
	// And of what is wrong, that it is.
	for _, name := range []string{"rules-bad.yml", "rules_extrafields.yml", "bad-rules-syntax.yml"} {
		file := filepath.Join(upstreamData(t), name)
		_, _, ours := ruletest.Check(file, promql.NewParser())
		if err := exec.Command(promtool, "check", "rules", file).Run(); err == nil || ours == nil {
			t.Errorf("%s: promtool: %v, ours: %v", strings.TrimPrefix(file, upstreamData(t)), err, ours)
		}
	}
}
