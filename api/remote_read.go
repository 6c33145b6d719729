package api

import (
	"bytes"
	"io"
	"net/http"
	"slices"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage/remote"
)

// sampledRead makes a remote read one for samples, where its client takes them:
// Prometheus itself prefers a stream of its own chunks, of which there are none here and
// which would go on being read after the request's turn.
func (a *api) sampledRead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := remote.DecodeReadRequest(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		accepted := request.AcceptedResponseTypes
		if len(accepted) > 0 && !slices.Contains(accepted, prompb.ReadRequest_SAMPLES) {
			http.Error(w, "series are computed on read and have no chunks: accept samples", http.StatusBadRequest)
			return
		}
		request.AcceptedResponseTypes = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES}
		body, err := request.Marshal()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(snappy.Encode(nil, body)))
		next.ServeHTTP(w, r)
	})
}
