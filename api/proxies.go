package api

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwarded is r as it would be had its client come here without the proxies in between.
// Each proxy adds to X-Forwarded-For who came to it, so the client is the last who is no
// proxy of ours; what stands before anybody could have written.
func forwarded(r *http.Request, proxies []netip.Prefix) *http.Request {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !within(addr.Addr(), proxies) {
		return r
	}
	client := addr.Addr()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		at, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			break // who wrote this is the last that is known
		}
		if client = at; !within(client, proxies) {
			break
		}
	}
	as := *r
	as.RemoteAddr = net.JoinHostPort(client.Unmap().String(), "0")
	return &as
}

// parseHop reads an address, with a port or without.
func parseHop(text string) (netip.Addr, error) {
	if addr, err := netip.ParseAddrPort(text); err == nil {
		return addr.Addr(), nil
	}
	return netip.ParseAddr(strings.Trim(text, "[]"))
}

func within(addr netip.Addr, in []netip.Prefix) bool {
	return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
