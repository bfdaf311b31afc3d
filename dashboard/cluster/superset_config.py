"""Superset's configuration for a cluster, where users reach it through an ingress that ends TLS.

Pages may load only from Superset; its default also allows browsers to report to an analytics service. Browsers use HTTPS
only, and send the session cookie to no other site. `dashboard/superset_config.py` is for a run on one machine.
"""

# The ingress reports the scheme and the address of the browser in X-Forwarded-* headers.
ENABLE_PROXY_FIX = True
PREFERRED_URL_SCHEME = "https"
SESSION_COOKIE_SECURE = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
TALISMAN_ENABLED = True
TALISMAN_CONFIG = {
    "content_security_policy": {
        "base-uri": ["'self'"],
        "default-src": ["'self'"],
        "img-src": ["'self'", "blob:", "data:"],
        "worker-src": ["'self'", "blob:"],
        "object-src": "'none'",
        "style-src": ["'self'", "'unsafe-inline'"],
        "script-src": ["'self'", "'strict-dynamic'"],
    },
    "content_security_policy_nonce_in": ["script-src"],
    "force_https": True,
    "session_cookie_secure": True,
    "strict_transport_security": True,
    "strict_transport_security_max_age": 31536000,
}
