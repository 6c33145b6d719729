package ruletest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler/ruletest"
)

// upstreamData is the directory of the files that promtool itself is tested with.
func upstreamData(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/prometheus/prometheus").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "cmd", "promtool", "testdata")
}

// run returns the names of the tests that fail, or the error of the file.
func run(name string) (failed []string, err error) {
	results, err := ruletest.Run(name, promql.NewParser())
	for _, r := range results {
		if len(r.Errors) > 0 {
			failed = append(failed, r.Name)
		}
	}
	return failed, err
}

// The verdicts on upstream's own files are those of promtool, with the experimental
// functions that ours has without a flag.
func TestUpstreamUnitTests(t *testing.T) {
	dir := upstreamData(t)
	for file, fails := range map[string]string{ // the tests that fail
		"unittest.yml":                    "",
		"long-period.yml":                 "",
		"bad-input-series.yml":            "unnamed#0",
		"bad-promql.yml":                  "unnamed#0",
		"bad-rules-syntax-test.yml":       "unnamed#0",
		"bad-rules-error-test.yml":        "unnamed#0",
		"failing.yml":                     "Failing test,Failing alert test",
		"at-modifier-test.yml":            "",
		"negative-offset-test.yml":        "",
		"experimental-functions-test.yml": "",
		"no-test-group-interval.yml":      "",
		"start-time-test.yml":             "",
		"rules_run.yml":                   "wrong test",
		"rules_run_extrafields.yml":       "extra ownership field test",
		"rules_run_no_fuzzy.yml":          "correct fuzzy match",
		"rules_run_fuzzy.yml":             "wrong fuzzy match",
	} {
		t.Run(file, func(t *testing.T) {
			failed, err := run(filepath.Join(dir, file))
			if err != nil || strings.Join(failed, ",") != fails {
				t.Errorf("the tests %v fail, error %v; want %q", failed, err, fails)
			}
		})
	}
}

// Files that promtool takes and refuses are taken and refused.
func TestUpstreamRuleFiles(t *testing.T) {
	dir := upstreamData(t)
	for file, want := range map[string]struct {
		rules, duplicates int
		err               string
	}{
		"rules.yml":                  {rules: 5},
		"rules_large.yml":            {rules: 10002, duplicates: 2},
		"rules_duplicates.yml":       {rules: 5, duplicates: 2},
		"prometheus-rules.lint.yml":  {rules: 2, duplicates: 1},
		"rules-bad.yml":              {err: `group "alerts", rule 1, "InstanceDown"`},
		"rules_extrafields.yml":      {err: "field ownership not found"},
		"features.yml":               {rules: 6},
		"bad-rules-syntax.yml":       {err: "could not parse expression"},
		"there-is-no-such-file.yaml": {err: "no such file"},
	} {
		t.Run(file, func(t *testing.T) {
			n, duplicates, err := ruletest.Check(filepath.Join(dir, file), promql.NewParser())
			if n != want.rules || len(duplicates) != want.duplicates {
				t.Errorf("%d rules, duplicates %v, want %+v", n, duplicates, want)
			}
			if (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
				t.Errorf("error %v, want %q", err, want.err)
			}
		})
	}
}

// The rules that the documentation ships are right, and do what their tests say.
func TestShippedRules(t *testing.T) {
	files, err := filepath.Glob("../../../docs/rules/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.yaml") {
			results, err := ruletest.Run(file, promql.NewParser())
			if err != nil {
				t.Error(err)
			}
			for _, r := range results {
				for _, err := range r.Errors {
					t.Errorf("%s: %s: %v", file, r.Name, err)
				}
			}
			continue
		}
		if _, err := os.Stat(strings.TrimSuffix(file, ".yaml") + "_test.yaml"); err != nil {
			t.Errorf("%s has no tests", file)
		}
		if _, duplicates, err := ruletest.Check(file, promql.NewParser()); err != nil || len(duplicates) > 0 {
			t.Errorf("%v, duplicates %v", err, duplicates)
		}
	}
}
