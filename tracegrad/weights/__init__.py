"""Networks on disk: checkpoints of a training, exported files, and released networks of other codes.

| module          | what it does                                                                              |
|-----------------|-------------------------------------------------------------------------------------------|
| `saved`         | ``load_model``: the network of a run directory, a checkpoint or an exported file          |
| `ensembles`     | ``load_ensemble``: several of them as one                                                  |
| `hub`           | models by name on the Hugging Face Hub                                                    |
| `checkpoint`    | reads a checkpoint (.ckpt) as plain data; compares its tensors with those of a network    |
| `file_names`    | names of the checkpoints in a run directory                                               |
| `model_file`    | writes and reads exported files (.safetensors)                                            |
| `construct`     | builds a network from the settings in either file, and nothing but a network              |
| `plugins`       | which packages of users may be imported to build a network                                |
| `renamed`       | present names of classes in settings of earlier versions                                  |
| `released`      | ``load_released``: weights of the authors' QHNet and DeepH-E3, converted to this package  |

`tracegrad.training.warm_start` copies weights from any of these into a network that is to be trained.
"""
