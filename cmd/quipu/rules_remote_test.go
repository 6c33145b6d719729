package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A namespace becomes what its file is, is shown as a file that loads again, and goes;
// each tenant has its own.
func TestRulesOfAServer(t *testing.T) {
	s := newTenantServer(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const group = `{name: %, interval: 30s, rules: [{record: "a:%", expr: "vector(1)"}, {alert: B, expr: "vector(1) > 0", for: 1m}]}`
	groups := func(names ...string) string {
		text := "groups:\n"
		for _, name := range names {
			text += "- " + strings.ReplaceAll(group, "%", name) + "\n"
		}
		return text
	}
	expect := func(status int, want string, args ...string) string {
		t.Helper()
		got, out, errs := s.cli("", append([]string{"rules"}, args...)...)
		if all := out + errs; got != status || !strings.Contains(all, want) {
			t.Errorf("rules %s: %d %s, want %d and %q", strings.Join(args, " "), got, all, status, want)
		}
		return out
	}
	shop := file("shop.yaml", groups("x", "y"))
	expect(0, "shop/x: 2 rules\nshop/y: 2 rules\n", "load", shop, "--tenant=acme")
	expect(0, "shop       x      2\nshop       y      2\n", "list", "--tenant=acme")
	if got := expect(0, "NAMESPACE", "list", "--tenant=other"); strings.Contains(got, "shop") {
		t.Errorf("another tenant has %s", got)
	}
	s.expect(200, `"name":"a:x"`, "acme", "GET", "/api/v1/rules", "")

	file("shop.yaml", groups("y", "z"))
	expect(0, "shop/y: 2 rules\nshop/z: 2 rules\nshop/x: removed\n", "load", shop, "--tenant=acme")
	copied := file("copy.yaml", expect(0, "name: z", "get", "shop", "--tenant=acme"))
	expect(0, "a/b c/y: 2 rules\na/b c/z: 2 rules\n", "load", copied, "--namespace=a/b c", "--tenant=acme")
	if got := expect(0, `name: "y"`, "get", "a/b c", "y", "--tenant=acme"); strings.Contains(got, "name: z") {
		t.Errorf("one group is\n%s", got)
	}
	expect(0, "", "delete", "a/b c", "y", "--tenant=acme")
	expect(1, `there is no group "y" in namespace "a/b c"`, "get", "a/b c", "y", "--tenant=acme")
	expect(0, "", "delete", "a/b c", "--tenant=acme")
	expect(1, "no rule groups found", "delete", "a/b c", "--tenant=acme")
	expect(1, `there is no namespace "a/b c"`, "get", "a/b c", "--tenant=acme")

	// Nothing is loaded where one file is wrong.
	bad := file("bad.yaml", "groups:\n- {name: g, rules: [{record: a, expr: \"sum(\"}]}\n")
	expect(1, "bad.yaml: 2:", "load", file("good.yaml", groups("x")), bad, "--tenant=acme")
	if got := expect(0, "shop", "list", "--tenant=acme"); strings.Contains(got, "good") {
		t.Errorf("loaded all the same:\n%s", got)
	}
	expect(1, "its interval is 20s, it must be a multiple of the tenant's grid", "load", file("shop.yaml", strings.ReplaceAll(groups("y"), "30s", "20s")), "--tenant=acme")
	expect(1, "--namespace is of one file", "load", shop, copied, "--namespace=n")
}
