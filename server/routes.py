"""The URL table, one line a route. How templates are read: ``routing.py``.

The first template that fits wins, so what has a fixed word stands before what has a tail.
"""

# ruff: noqa: E501 - one line a route

from ndcass.server.handlers import (
    annotation,
    cutout,
    health,
    info,
    job,
    label,
    nifti,
    object_query,
    overlay,
    page,
    posted_cutout,
    posted_tiff,
    project,
    projection,
    propagate,
    question,
    ramon,
    refusal,
    skeleton,
    statistics,
    synaptogram,
    tile,
    viewer,
)
from ndcass.server.handlers import slice as slices
from ndcass.server.routing import Route

_DATASET = "/resource/dataset/{dataset}/"
_PROJECT = "/resource/dataset/{dataset}/project/{project}/"
_CHANNEL = "/resource/dataset/{dataset}/project/{project}/channel/{channel_name}/"
_TOKEN = "/resource/dataset/{dataset}/project/{project}/token/{token_name}/"  # noqa: S105 - a path
_RESERVE = "/{token}/{channel}/reserve/{count}/"
_INFO = "/sd/{token}/info{junk}"
_PROJINFO = "/sd/{token}/projinfo{junk}"
_BOX = "/sd/{token}/[{channels}/]{npz|raw|zip|blosc|hdf5|jpeg|tiff|diff}/{box}"
_POST_BOX = "/sd/{token}/[{channels}/]{npz|raw|blosc|hdf5|blaze}/{box}"
# Before the planes, for which their words would be channels.
_MCFC = "/sd/{token}/[{channels}/]mcfc/{xy|xz|yz}/{plane}"
_MINPROJ = "/sd/{token}/[{channels}/]minproj/{xy|xz|yz}/{box}"
_MAXPROJ = "/sd/{token}/[{channels}/]maxproj/{xy|xz|yz}/{box}"
_PLANE = "/sd/{token}/[{channels}/]{xy|xz|yz}/{plane}"
_LABELS_PLANE = "/sd/{token}/[{channels}/]{xyanno|xzanno|yzanno}/{ids}/{plane}"
_TILE = "/tilecache/{token}/{channel}/{xy|xz|yz}/{tile}"
_VIKING_TILE = "/tilecache/viking/{token}/volume/{channel}/{viking_tile}"
_MCFC_TILE = "/tilecache/mcfc/{token}/{colours}/{xy|xz|yz}/{tile}"
_MAXPROJ_TILE = "/tilecache/maxproj/{token}/{channel}/[width:{slices}/]xy/{tile}"
_OVERLAY = "/overlay/{alpha}/{first_server}/{first_token}/{first_channel}/{second_server}/{second_token}/{second_channel}/{xy|xz|yz}/{plane}"
_SYNAPTOGRAM = "/synaptogram/{token}/{channels}/{xy|xz|yz}/{box}"
_NEVER_POSTED = "/sd/{token}/[{channels}/]{zip|jpeg|diff|xy|xz|yz|xyanno|xzanno|yzanno|minproj|maxproj|mcfc|id|ids}/{rest}"
_STATS = "/stats/{token}/{channel}"
_ANNOTATIONS = "/sd/{token}/{channel}"
_OBJECT = "/sd/{token}/{channel}/{ids}"
_SET_FIELD = "/sd/{token}/{channel}/setField/{object}/{field}/{value}/"
_MERGE = "/sd/{token}/{channel}/merge/{ids}/"
_MERGE_GLOBAL = (f"{_MERGE}global/", f"{_MERGE}global/{{level}}/")
_RAMON = "/ramon/{token}/{channel}"
_BLAZE = "/sd/{token}/[{channels}/]blaze/{rest}"

# fmt: off
ROUTES = (
    Route("GET", _INFO, info.read_info, "A project, its dataset and channels as JSON.", aliases=("/{token}/info/",), challenge=True),
    Route("GET", _PROJINFO, info.read_projinfo, "A project, its dataset and channels as HDF5.", challenge=True),
    # -- voxels, near the top because they are asked for most; `info` tolerates what looks like them
    Route("GET", _BOX, cutout.read_cutout, "A box of one or more channels."),
    Route("POST", _POST_BOX, posted_cutout.write_cutout, "Write a box; the answer comes when it is on disk."),
    Route("GET", _MCFC, slices.read_false_colour, "A plane of several channels as PNG, each in a colour."),
    Route("GET", _MINPROJ, projection.read_minproj, "The least voxels of a box as PNG."),
    Route("GET", _MAXPROJ, projection.read_maxproj, "The greatest voxels of a box as PNG."),
    Route("GET", _PLANE, slices.read_slice, "A plane of one channel as PNG."),
    Route("POST", "/sd/{token}/[{channels}/]tiff/{corner}", posted_tiff.write_tiff, "Write the pages of a TIFF as sections from a corner on."),
    # -- tiles of 512 x 512 pixels; kinds first, for simple ones begin with a token
    Route("GET", _VIKING_TILE, tile.read_viking_tile, "A tile of one channel, named as Viking does."),
    Route("GET", _MCFC_TILE, tile.read_false_colour_tile, "A tile of several channels, each in a colour."),
    Route("GET", _MAXPROJ_TILE, tile.read_projected_tile, "A tile of the greatest voxels of some slices."),
    Route("GET", "/tilecache/filter/{rest}", tile.refuse_filter_tile, "Refused: never existed.", refuses=True),
    Route("GET", _TILE, tile.read_tile, "A tile of one channel."),
    Route("GET", _OVERLAY, overlay.read_overlay, "A slice over another as PNG."),
    Route("GET", _SYNAPTOGRAM, synaptogram.read_synaptogram, "The sections of a box as PNGs in JSON."),
    Route("GET", "/viz/{rest}", viewer.redirect, "On to the viewer of the original."),
    Route("GET", "/sd/{token}/[{channels}/]id/{voxel}", label.read_id, "The label at a voxel."),
    Route("GET", "/sd/{token}/[{channels}/]ids/{box}", label.read_ids, "All labels in a box."),
    Route("GET", "/sd/{token}/[{channels}/]nii/", nifti.read_nifti, "A whole channel at level 0 as NIfTI."),
    Route("POST", "/sd/{token}/[{channels}/]nii/{nifti_options}", nifti.write_nifti, "Replace a whole channel at level 0, or make it.", aliases=("/sd/{token}/[{channels}/]nii",)),
    Route("GET", "/sd/{token}/{channel}/labels/{ids|sizes|touches}/{box}", question.ask_labels, "The labels of a region: which, how large, what touches."),
    Route("GET", "/sd/{token}/{channel}/labels/statistics/{image}/{box}", question.ask_statistics, "What lies under each label of a region in an image channel."),
    Route("GET", _LABELS_PLANE, label.read_slice, "A plane of some labels of a channel as PNG."),
    # -- pyramids
    Route("GET", "/sd/{token}/{channels}/getPropagate/", propagate.read_propagate, "The states of the pyramids of some channels."),
    Route("GET", "/sd/{token}/{channels}/setPropagate/{values}/", propagate.set_propagate, "Start building the pyramids of some channels (1), or give them up (0).", changes=True),
    Route("GET", "/sd/{token}/{channel}/freshness/", propagate.read_freshness, "What of the pyramid of a channel is old."),
    # -- volumes
    Route("GET", "/sd/public_tokens/", project.public_tokens, "Names of the public tokens.", aliases=("/public_tokens/",)),
    Route("GET", "/sd/public_datasets/", project.public_datasets, "Names of the public datasets."),
    Route("GET", "/sd/{token}/chaninfo/", info.read_channel_info, "The channels of a project as JSON."),
    Route("GET", "/sd/{token}/volume.vikingxml", info.read_viking_xml, "The volume as the viewer Viking wants it.", aliases=("/sd/{token}/volume.vikingxml/",)),
    Route("GET", f"/sd{_RESERVE}", info.reserve_ids, "Reserve object ids: [first, count].", aliases=(_RESERVE,), changes=True),
    Route("POST", f"/sd{_RESERVE}", info.reserve_ids, "Reserve object ids: [first, count].", aliases=(_RESERVE,)),
    Route("POST", _NEVER_POSTED, refusal.refuse_post, "Refused: these services are for reading.", refuses=True),
    Route("GET", _BLAZE, refusal.refuse_blaze, "Refused: nothing can be read from blaze.", refuses=True),
    # -- annotation objects; those that begin with ids stand last, for what stands before has a word
    Route("GET", f"{_ANNOTATIONS}/query/{{predicates}}", object_query.query, "The ids of the objects that meet some predicates, as HDF5.", aliases=(f"{_ANNOTATIONS}/query",)),
    Route("POST", f"{_ANNOTATIONS}/query/{{predicates}}", object_query.query_region, "The same of the objects that have a voxel in the posted region.", aliases=(f"{_ANNOTATIONS}/query",)),
    Route("GET", f"{_ANNOTATIONS}/getField/{{object}}/{{field}}/", object_query.read_field, "A field of an object as text."),
    Route("GET", _SET_FIELD, object_query.set_field, "Set a field of an object.", changes=True),
    Route("POST", _SET_FIELD, object_query.set_field, "Set a field of an object."),
    Route("PUT", _SET_FIELD, object_query.set_field, "Set a field of an object."),
    Route("GET", _MERGE, object_query.merge, "Merge objects into the first of them.", aliases=_MERGE_GLOBAL, changes=True),
    Route("POST", _MERGE, object_query.merge, "Merge objects into the first of them.", aliases=_MERGE_GLOBAL),
    Route("GET", "/sd/{token}/[{channel}/]csv/{object}/{level}/", object_query.read_csv, "An object and its box as lines of name and value."),
    Route("GET", "/sd/{token}/[{channel}/]exceptions/{box}", object_query.read_exceptions, "The voxels of a box that belong to several objects."),
    Route("GET", f"{_ANNOTATIONS}/swc/", skeleton.read_swc, "All skeletons of a channel as SWC."),
    Route("POST", f"{_ANNOTATIONS}/swc/", skeleton.write_swc, "Make skeletons and nodes of an SWC file."),
    Route("GET", f"{_ANNOTATIONS}/swc/{{ids}}/", skeleton.read_swc, "Some skeletons as SWC."),
    Route("GET", f"{_OBJECT}/{{object_data}}", annotation.get_objects, "Some objects as HDF5 or JSON.", aliases=(_OBJECT,)),
    Route("DELETE", f"{_OBJECT}/", annotation.delete_objects, "Delete objects and their voxels."),
    Route("POST", f"{_ANNOTATIONS}/", annotation.write_objects, "Make objects.", aliases=(f"{_ANNOTATIONS}/{{words}}/",)),
    Route("GET", f"{_ANNOTATIONS}/", refusal.refuse_unnamed, "Refused: names nothing that can be read.", aliases=(f"{_ANNOTATIONS}/{{words}}/",), refuses=True),
    Route("GET", f"{_RAMON}/query/{{field}}/{{value}}/", ramon.query, "The ids of the objects that have a value, as JSON."),
    Route("GET", f"{_RAMON}/topkeys/", ramon.read_top_keys, "The stored keys that most values have.", aliases=(f"{_RAMON}/topkeys/{{count}}/", f"{_RAMON}/topkeys/type/{{kind}}/", f"{_RAMON}/topkeys/{{count}}/type/{{kind}}/")),
    Route("GET", f"{_RAMON}/{{object}}/", ramon.read_object, "An object as JSON."),
    Route("GET", f"{_RAMON}/{{object}}/boundingbox/", ramon.read_box, "An object as JSON, with the box around it.", aliases=(f"{_RAMON}/{{object}}/boundingbox/{{level}}/",)),
    Route("GET", "/ndgraph/{token}/{channel}/{graph}", skeleton.read_graph, "The segments that synapses join, as a graph.", aliases=("/ndgraph/{token}/{channel}",)),
    # -- statistics
    Route("GET", f"{_STATS}/genhist/", statistics.order_histogram, "Have the histogram of a whole channel made.", changes=True),
    Route("POST", f"{_STATS}/genhist/", statistics.order_regions, "Have histograms of some regions made."),
    Route("GET", f"{_STATS}/genhist/{{job}}/", statistics.read_job, "How far a job that makes a histogram is."),
    Route("GET", f"{_STATS}/hist/", statistics.read_histogram, "The histogram of a channel."),
    Route("GET", f"{_STATS}/hist/roi/", statistics.list_regions, "The regions of a channel that have a histogram."),
    Route("GET", f"{_STATS}/hist/roi/{{region}}", statistics.read_region, "The histogram of a region."),
    Route("GET", f"{_STATS}/binnedhist/roi/{{region}}", statistics.read_binned_region, "The histogram of a region, ten bins in one."),
    Route("GET", f"{_STATS}/all/", statistics.read_all, "The histogram of a channel and what follows from it."),
    Route("GET", f"{_STATS}/mean/", statistics.read_mean, "The mean of a channel's voxels that are not 0."),
    Route("GET", f"{_STATS}/std/", statistics.read_stddev, "Their standard deviation."),
    Route("GET", f"{_STATS}/percentile/{{percent}}", statistics.read_percentile, "A percentile of them."),
    # -- resources
    Route("GET", "/resource/dataset/", project.list_datasets, "Names of the datasets that the caller may see."),
    Route("GET", "/resource/publicdataset/", project.public_datasets, "Names of the public datasets."),
    Route("GET", "/resource/public/dataset/", project.public_datasets, "Names of the public datasets."),
    Route("GET", "/resource/public/dataset/{dataset}/", project.public_projects, "Names of a dataset's public projects."),
    Route("GET", "/resource/public/token/", project.public_tokens, "Names of the public tokens."),
    Route("GET", _DATASET, project.read_dataset, "A dataset."),
    Route("POST", _DATASET, project.create_dataset, "Make a dataset."),
    Route("PUT", _DATASET, project.update_dataset, "Change fields of a dataset."),
    Route("DELETE", _DATASET, project.delete_dataset, "Delete a dataset with all that is in it."),
    Route("GET", f"{_DATASET}project/", project.list_projects, "Names of a dataset's projects that the caller may see."),
    Route("GET", _PROJECT, project.read_project, "A project."),
    Route("POST", _PROJECT, project.create_project, "Make a project."),
    Route("PUT", _PROJECT, project.update_project, "Change fields of a project."),
    Route("DELETE", _PROJECT, project.delete_project, "Delete a project with its tokens and channels."),
    Route("GET", f"{_PROJECT}channel/", project.list_channels, "Names of a project's channels."),
    Route("GET", _CHANNEL, project.read_channel, "A channel."),
    Route("POST", _CHANNEL, project.create_channel, "Make a channel."),
    Route("PUT", _CHANNEL, project.update_channel, "Change fields of a channel."),
    Route("DELETE", _CHANNEL, project.delete_channel, "Delete a channel and its voxels."),
    Route("GET", f"{_PROJECT}token/", project.list_tokens, "Names of a project's tokens that the caller may see."),
    Route("GET", _TOKEN, project.read_token, "A token."),
    Route("POST", _TOKEN, project.create_token, "Make a token."),
    Route("PUT", _TOKEN, project.update_token, "Change fields of a token."),
    Route("DELETE", _TOKEN, project.delete_token, "Delete a token; what it led to stays."),
    # -- background work
    Route("GET", "/jobs/", job.list_jobs, "The jobs of the caller's channels, newest first.", challenge=True),
    Route("GET", "/jobs/{job}/", job.read_job, "A job: its state, how far it is, why it failed.", challenge=True),
    Route("DELETE", "/jobs/{job}/", job.cancel_job, "Cancel a job.", challenge=True),
    # -- operations
    Route("GET", "/", page.read_page, "The page that lists what is public."),
    Route("GET", "/view/{token}/", page.read_project, "A page about a project."),
    Route("GET", "/view/{token}/{channel}/", page.read_channel, "A page that shows a channel, section by section."),
    Route("GET", "/static/{console.css|console.js|icon.svg}", page.read_asset, "What pages load."),
    Route("GET", "/healthz", health.healthz, "200 while the process lives."),
    Route("GET", "/readyz", health.readyz, "200 when the store answers, else 503 with the reason."),
    Route("GET", "/metrics", health.read_metrics, "Numbers for Prometheus."),
    Route("GET", "/openapi.json", health.read_openapi, "This description."),
)
# fmt: on
