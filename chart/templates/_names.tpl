{{/* Name of the chart, for labels. */}}
{{- define "streamstage.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 54 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of the object names: `streamstage` for a release of that name. */}}
{{- define "streamstage.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "streamstage.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "streamstage.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Name of the operator's objects and of its Lease. */}}
{{- define "streamstage.operator" -}}
{{ include "streamstage.fullname" . }}-operator
{{- end }}

{{/* Labels of every object; the argument is a list of the root context and the component. */}}
{{- define "streamstage.labels" -}}
{{- $root := index . 0 -}}
{{ include "streamstage.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: streamstage
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Selector labels: immutable, so without the version. */}}
{{- define "streamstage.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "streamstage.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Reference of an image; the argument is a list of the root context and `operator` or `worker`. */}}
{{- define "streamstage.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ index $image (index . 1) }}
{{- with index $image.digest (index . 1) }}@{{ . }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* Resource quantities in the syntax of the operator's flags: cpu=100m,memory=64Mi. */}}
{{- define "streamstage.quantities" -}}
{{- $quantities := list -}}
{{- range $name, $quantity := . }}{{ $quantities = append $quantities (printf "%s=%v" $name $quantity) }}{{ end -}}
{{ join "," $quantities }}
{{- end }}

{{/* Pod security context that satisfies the `restricted` Pod Security Standard. */}}
{{- define "streamstage.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Container security context that satisfies it, with a read-only root file system. */}}
{{- define "streamstage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
