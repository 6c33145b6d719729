package enrich

import "strings"

// Media of visits that no UTM parameter names, as web analytics calls them.
const (
	MediumNone     = "(none)" // nothing says where from
	MediumOrganic  = "organic"
	MediumSocial   = "social"
	MediumEmail    = "email"
	MediumReferral = "referral"

	sourceDirect = "(direct)"
)

// engines are hosts of search engines, social networks and mail, without what is before
// and after the name, by their medium.
var engines = map[string]string{
	"google": MediumOrganic, "bing": MediumOrganic, "duckduckgo": MediumOrganic, "yahoo": MediumOrganic, "yandex": MediumOrganic,
	"baidu": MediumOrganic, "ecosia": MediumOrganic, "qwant": MediumOrganic, "startpage": MediumOrganic, "ask": MediumOrganic,
	"naver": MediumOrganic, "seznam": MediumOrganic, "sogou": MediumOrganic, "aol": MediumOrganic, "kagi": MediumOrganic,
	"facebook": MediumSocial, "instagram": MediumSocial, "twitter": MediumSocial, "linkedin": MediumSocial, "lnkd": MediumSocial,
	"reddit": MediumSocial, "pinterest": MediumSocial, "youtube": MediumSocial, "tiktok": MediumSocial, "threads": MediumSocial,
	"vk": MediumSocial, "weibo": MediumSocial, "tumblr": MediumSocial, "bsky": MediumSocial, "ycombinator": MediumSocial,
	"quora": MediumSocial, "xing": MediumSocial,
}

// shortHosts are hosts whose name alone is too short to mean one thing.
var shortHosts = map[string]string{"t.co": "twitter", "x.com": "twitter", "youtu.be": "youtube", "fb.me": "facebook", "wa.me": "whatsapp", "t.me": "telegram"}

// Source is where a visit came from: the UTM parameters where there are any, else what
// the referrer, a host, is known as; medium says how. A referrer that is the page's own
// host says nothing.
func Source(referrer, host, utmSource, utmMedium string) (source, medium string) {
	if utmSource != "" {
		if utmMedium == "" {
			utmMedium = "(not set)"
		}
		return utmSource, utmMedium
	}
	referrer = strings.TrimPrefix(strings.ToLower(referrer), "www.")
	switch {
	case referrer == "" || referrer == "$direct" || referrer == strings.TrimPrefix(strings.ToLower(host), "www."):
		return sourceDirect, MediumNone
	case shortHosts[referrer] != "":
		return shortHosts[referrer], MediumSocial
	case strings.HasPrefix(referrer, "mail.") || strings.HasPrefix(referrer, "outlook."):
		return referrer, MediumEmail
	}
	// The name is the first label that is one, of at most the last four:
	// "news.ycombinator.com", "www.google.co.uk", "de.search.yahoo.com".
	labels := strings.Split(referrer, ".")
	for i := max(0, len(labels)-4); i < len(labels)-1; i++ {
		if medium := engines[labels[i]]; medium != "" {
			return labels[i], medium
		}
	}
	return referrer, MediumReferral
}
